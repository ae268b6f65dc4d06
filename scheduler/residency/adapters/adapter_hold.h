// Reference counts of adapter versions. Requests, the adapter store and the registry hold a version
// so that the registry does not forget it. Holds may be copied and dropped on any thread. Dropping
// a hold never waits, frees nothing and takes no lock: the last hold moves to a list, and the
// registry, which owns the versions, later drains that list under its lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace tessera {

class UnheldList;

// The base class of an object that has holds.
class Holdable {
 public:
  // `unheld` outlives the object and all its holds.
  explicit Holdable(UnheldList* unheld) : unheld_(unheld) {}
  Holdable(const Holdable&) = delete;
  Holdable& operator=(const Holdable&) = delete;

 protected:
  ~Holdable() = default;

 private:
  friend class AdapterHold;
  friend class UnheldList;

  UnheldList* const unheld_;
  std::atomic<int64_t> num_holds_{0};  // includes the hold of the UnheldList
  Holdable* next_ = nullptr;           // next object in the UnheldList
};

// A lock-free list of objects whose last hold was dropped. The list keeps that hold until Drain.
class UnheldList final {
 public:
  // Moves the caller's hold, which is the only one, to the list. Any thread.
  void Push(Holdable* last) {
    last->next_ = first_.load(std::memory_order_relaxed);
    while (!first_.compare_exchange_weak(last->next_, last, std::memory_order_release,
                                         std::memory_order_relaxed)) {
    }
  }

  // Drops the list's holds, and calls `forget(Holdable*)` for each object without another hold.
  // REQUIRES: the caller holds the owner's lock. Drain then has one caller at a time, and other
  // threads can make a hold only by copying one.
  template <class Forget>
  void Drain(const Forget& forget) {
    Holdable* each = first_.exchange(nullptr, std::memory_order_acquire);
    while (each != nullptr) {
      Holdable* const next = each->next_;
      if (each->num_holds_.fetch_sub(1, std::memory_order_acq_rel) == 1) forget(each);
      each = next;
    }
  }

 private:
  std::atomic<Holdable*> first_{nullptr};
};

// One hold of an object. Empty if default-constructed or moved from.
class AdapterHold final {
 public:
  AdapterHold() = default;
  // REQUIRES: the caller has a hold of `held`, or is the owner and holds its lock.
  explicit AdapterHold(Holdable* held) : held_(held) {
    if (held_ != nullptr) held_->num_holds_.fetch_add(1, std::memory_order_relaxed);
  }
  AdapterHold(const AdapterHold& other) : AdapterHold(other.held_) {}
  AdapterHold(AdapterHold&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
  AdapterHold& operator=(AdapterHold other) noexcept {
    std::swap(held_, other.held_);
    return *this;
  }
  ~AdapterHold() {
    if (held_ != nullptr) Drop();
  }

 private:
  void Drop() {
    int64_t holds = held_->num_holds_.load(std::memory_order_acquire);
    while (holds > 1) {
      if (held_->num_holds_.compare_exchange_weak(holds, holds - 1, std::memory_order_acq_rel,
                                                  std::memory_order_acquire)) {
        return;
      }
    }
    // This is the only hold. The object is therefore not in the list, which would have another.
    held_->unheld_->Push(held_);
  }

  Holdable* held_ = nullptr;
};

}  // namespace tessera
