#include "scheduler/request.h"

namespace tessera {

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kTimeLimit:
      return "time_limit";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kQuota:
      return "quota";
    case FinishReason::kError:
      return "error";
  }
  return "?";
}

}  // namespace tessera
