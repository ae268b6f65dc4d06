#include "scheduler/plan/queue_delay.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/log.h"

namespace tessera {
namespace {

// The prompts of a model need at least num_steps steps. Each of them also computes the running
// streams, and the target time of a step leaves only a part of it to prompts.
double PromptTimeUs(const DelayShare& model) {
  if (model.num_steps == 0) return 0.0;
  double num_steps = static_cast<double>(model.num_steps);
  const double room_us = model.most_step_us - model.step_us;
  if (model.has_streams && room_us > 0.0) {
    num_steps = std::max(num_steps, model.prompts_us / room_us);
  }
  return model.prompts_us + num_steps * model.step_us;
}

// Models take turns with equal shares of the device. Until the longest work on prompts is done, a
// model with streams takes a full share, and another model what its prompts need.
double AllPromptsUs(const std::vector<DelayShare>& models) {
  double longest_us = 0.0;
  for (const DelayShare& model : models) longest_us = std::max(longest_us, PromptTimeUs(model));
  double us = 0.0;
  for (const DelayShare& model : models) {
    us += model.has_streams ? longest_us : PromptTimeUs(model);
  }
  return us;
}

}  // namespace

void PredictedEnds::Add(int64_t step) {
  steps_.insert(std::upper_bound(steps_.begin(), steps_.end(), step), step);
}

void PredictedEnds::Remove(int64_t step) {
  const auto it = std::lower_bound(steps_.begin(), steps_.end(), step);
  CHECK(it != steps_.end() && *it == step) << "no sequence ends at step " << step;
  steps_.erase(it);
}

// The number of ends by the time x is the number of ends_us up to x, plus the ends of the sequences
// that follow. Their lengths are random, so the ends in one place are spread out evenly in time:
// from half of a life after the place became free, one end in each life.
double TimeOfEnds(const std::vector<double>& ends_us, double life_us, int64_t num_ends) {
  const auto wanted = static_cast<double>(num_ends);
  const size_t num_places = ends_us.size();
  if (num_ends <= 1) return ends_us.front();
  const double half_us = std::max(0.5, life_us / 2);
  size_t num_ended = 0;      // ends of the sequences that run now
  size_t num_following = 0;  // places in which following sequences end
  double followed = 0.0;     // ends of the sequences that follow
  double now_us = 0.0;
  for (;;) {
    const bool starts = num_following < num_ended;
    double next_us = starts ? ends_us[num_following] + half_us : HUGE_VAL;
    if (num_ended < num_places) next_us = std::min(next_us, ends_us[num_ended]);
    // Until the next change, the places in which followers end give ends at a constant rate.
    const double rate = static_cast<double>(num_following) / (2 * half_us);
    const double lacking = wanted - static_cast<double>(num_ended) - followed;
    if (rate > 0.0 && now_us + lacking / rate <= next_us) return now_us + lacking / rate;
    followed += rate * (next_us - now_us);
    now_us = next_us;
    if (num_ended < num_places && ends_us[num_ended] <= now_us) {
      ++num_ended;
      if (static_cast<double>(num_ended) + followed >= wanted) return now_us;
    } else {
      ++num_following;
    }
  }
}

double PredictDelayUs(const std::vector<DelayShare>& models, int64_t num_ends) {
  double num_sharing = 0.0;
  double num_running = 0.0;
  for (const DelayShare& model : models) {
    num_sharing += model.has_streams ? 1.0 : 0.0;
    num_running += static_cast<double>(model.ends_us.size());
  }
  if (num_ends <= 0 || num_running == 0.0) return AllPromptsUs(models);
  // A step of a model comes once in each turn of all models that run.
  std::vector<double> ends_us;
  double prompts_us = 0.0;
  double life_us = 0.0;
  for (const DelayShare& model : models) {
    const auto middle = static_cast<std::ptrdiff_t>(ends_us.size());
    for (const double end_us : model.ends_us) ends_us.push_back(end_us * num_sharing);
    std::inplace_merge(ends_us.begin(), ends_us.begin() + middle, ends_us.end());
    prompts_us += model.prompts_us;
    life_us +=
        model.life_us * num_sharing * static_cast<double>(model.ends_us.size()) / num_running;
  }
  return prompts_us + TimeOfEnds(ends_us, life_us, num_ends);
}

}  // namespace tessera
