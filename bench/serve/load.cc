#include "bench/serve/load.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "kernels/base/log.h"

namespace tessera::bench {
namespace {

// Pause of a client after an error, so that a server that refuses at once gets ten requests a
// second from each client and not as many as the client can send.
constexpr int64_t kPauseAfterErrorUs = 100'000;
// Time before the first request of an open loop is due, in which its call is prepared.
constexpr int64_t kLeadUs = 10'000;
// Number of clients that send the warm-up requests of an open loop.
constexpr int64_t kWarmupConcurrency = 4;

std::chrono::steady_clock::time_point TimePoint(int64_t time_us) {
  return std::chrono::steady_clock::time_point(std::chrono::microseconds(time_us));
}

int64_t ProcessCpuUs() {
  rusage usage{};
  CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  const auto us = [](const timeval& time) {
    return static_cast<int64_t>(time.tv_sec) * 1'000'000 + static_cast<int64_t>(time.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

}  // namespace

Load::Load(const LoadOptions& options, const Workload* workload,
           const std::shared_ptr<grpc::Channel>& channel, ClientOptions client)
    : options_(options),
      workload_(workload),
      client_(channel, std::move(client),
              [this](RequestRecord record) { OnDone(std::move(record)); }) {
  CHECK((options.concurrency > 0) != (options.rate > 0));
}

RunRecords Load::Run() {
  if (options_.num_warmup > 0) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      warming_up_ = true;
      next_index_ = -options_.num_warmup;
    }
    RunClosed(options_.concurrency > 0 ? options_.concurrency : kWarmupConcurrency);
  }
  const int64_t cpu_begin_us = ProcessCpuUs();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    warming_up_ = false;
    next_index_ = 0;
    records_.begin_us = clock_.NowUs();
  }
  if (options_.concurrency > 0) {
    RunClosed(options_.concurrency);
  } else {
    RunOpen();
  }
  std::lock_guard<std::mutex> lock(mutex_);
  records_.end_us = clock_.NowUs();
  records_.cpu_us = ProcessCpuUs() - cpu_begin_us;
  return std::move(records_);
}

void Load::RunClosed(int64_t concurrency) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    loops_ = true;
    num_outstanding_ += concurrency;
  }
  for (int64_t i = 0; i < concurrency; ++i) SendNext();
  Finish();
}

void Load::RunOpen() {
  ArrivalSchedule schedule(options_.arrivals, options_.rate, options_.seed);
  int64_t begin_us = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    loops_ = false;
    begin_us = records_.begin_us += kLeadUs;
  }
  for (;;) {
    const int64_t due_us = begin_us + schedule.NextUs();
    const std::optional<int64_t> index = TakeNext(due_us);
    if (!index) break;
    LoadClient::CallPtr call = client_.Prepare(workload_->At(*index), due_us);
    if (!WaitUntil(due_us)) break;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++num_outstanding_;
    }
    client_.Start(std::move(call));
  }
  Finish();
}

void Load::Finish() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (num_outstanding_ > 0) {
    if (resume_us_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const int64_t resume_us = resume_us_.front();
    if (!interrupted_ && clock_.NowUs() < resume_us) {
      changed_.wait_until(lock, TimePoint(resume_us));
      continue;
    }
    resume_us_.pop_front();
    lock.unlock();
    SendNext();
    lock.lock();
  }
}

std::optional<int64_t> Load::TakeNext(int64_t due_us) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t end_index = warming_up_ ? 0 : options_.num_requests;
  if (interrupted_ || next_index_ >= end_index) return std::nullopt;
  if (!warming_up_) {
    const auto duration_us = static_cast<int64_t>(options_.duration_seconds * 1e6);
    if (duration_us > 0 && due_us >= records_.begin_us + duration_us) return std::nullopt;
    records_.last_send_us = due_us;
  }
  return next_index_++;
}

void Load::SendNext() {
  const int64_t now_us = clock_.NowUs();
  if (const std::optional<int64_t> index = TakeNext(now_us)) {
    client_.Start(client_.Prepare(workload_->At(*index), now_us));
    return;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  --num_outstanding_;
  changed_.notify_all();
}

void Load::OnDone(RequestRecord record) {
  const bool ok = record.ok();
  bool loops = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!warming_up_) {
      num_errors_ += ok || record.abandoned ? 0 : 1;
      records_.requests.push_back(std::move(record));
    }
    loops = loops_;
    if (!loops) --num_outstanding_;
    if (loops && !ok) resume_us_.push_back(clock_.NowUs() + kPauseAfterErrorUs);
    if (!loops || !ok) changed_.notify_all();
  }
  if (loops && ok) SendNext();
}

bool Load::WaitUntil(int64_t time_us) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_until(lock, TimePoint(time_us),
                      [&] { return interrupted_ || clock_.NowUs() >= time_us; });
  return !interrupted_;
}

void Load::Interrupt() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    interrupted_ = true;
    changed_.notify_all();
  }
  client_.Abandon();
}

LoadProgress Load::Progress() const {
  LoadProgress progress;
  std::lock_guard<std::mutex> lock(mutex_);
  progress.warming_up = warming_up_;
  progress.elapsed_s =
      records_.begin_us == 0
          ? 0
          : static_cast<double>(std::max<int64_t>(clock_.NowUs() - records_.begin_us, 0)) / 1e6;
  progress.ended = static_cast<int64_t>(records_.requests.size());
  progress.errors = num_errors_;
  progress.in_flight = client_.num_in_flight();
  progress.tokens = client_.num_tokens();
  return progress;
}

}  // namespace tessera::bench
