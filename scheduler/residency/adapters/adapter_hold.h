// Shares in something that is forgotten once nobody holds it: how requests, the store and the
// registry itself keep a version of an adapter. Holds are copied and dropped on any thread, and
// whoever drops one never waits, frees nothing and takes no lock: the last hold is not given up but
// handed to a list, from which the owner takes it when it comes by.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace tessera {

class UnheldList;

// What is held: the owner's type derives from it.
class Holdable {
 public:
  // `unheld` outlives it and all its holds.
  explicit Holdable(UnheldList* unheld) : unheld_(unheld) {}
  Holdable(const Holdable&) = delete;
  Holdable& operator=(const Holdable&) = delete;

 protected:
  ~Holdable() = default;

 private:
  friend class AdapterHold;
  friend class UnheldList;

  UnheldList* const unheld_;
  std::atomic<int64_t> num_holds_{0};  // the list's is one of them
  Holdable* next_ = nullptr;           // in the list
};

// The last holds that were dropped, not yet given up.
class UnheldList final {
 public:
  // Any thread. The caller's hold, the only one, becomes the list's.
  void Push(Holdable* last) {
    last->next_ = first_.load(std::memory_order_relaxed);
    while (!first_.compare_exchange_weak(last->next_, last, std::memory_order_release,
                                         std::memory_order_relaxed)) {
    }
  }

  // Gives up the list's holds; `forget(Holdable*)` frees what nobody took up again. REQUIRES: one
  // caller at a time, and nobody makes a hold but from another hold meanwhile (the owner's lock).
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

// One share. Empty when it is default-constructed or moved from.
class AdapterHold final {
 public:
  AdapterHold() = default;
  // REQUIRES: the caller has a hold of it, or is the owner under its lock.
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
    // It is in no list: the list's hold would count.
    held_->unheld_->Push(held_);
  }

  Holdable* held_ = nullptr;
};

}  // namespace tessera
