// The messages of a responder and the loop that handles them. The Responder and the jobs of the
// lanes own the loop; Run and the handlers run on the responder's thread. See responder.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/base/mailbox.h"
#include "scheduler/generator.h"
#include "scheduler/request.h"
#include "server/call/prepare.h"
#include "server/call/prepare_lanes.h"
#include "server/door/caller.h"

namespace tessera {

class CallPort;
class EmbedOutput;
class StreamOutput;
struct ServedModel;
struct ServingContext;

struct OpenMessage {
  uint64_t call = 0;
  Method method = Method::kGenerate;
  CallPort* port = nullptr;
};
struct PreparedMessage {
  uint64_t call = 0;
  PreparedCall prepared;
  std::shared_ptr<const std::string> bytes;  // the request, if `prepared` needs more time
};
struct WriteDoneMessage {
  uint64_t call = 0;
  bool ok = false;
};
struct GoneMessage {
  uint64_t call = 0;
};
struct CancelMessage {
  uint64_t call = 0;
};
struct CancelAllMessage {};
struct EventMessage {
  uint64_t call = 0;
  int32_t input = 0;  // index of the engine request within the call
  TokenEvent event;
};
using ResponderMessage = std::variant<OpenMessage, PreparedMessage, WriteDoneMessage, GoneMessage,
                                      CancelMessage, CancelAllMessage, EventMessage>;

class ResponderLoop final : public std::enable_shared_from_this<ResponderLoop> {
 public:
  ResponderLoop(ServingContext* context, PrepareLanes* lanes);
  ~ResponderLoop();

  using Inbox = Mailbox<ResponderMessage>;
  Inbox& inbox() { return *inbox_; }
  // Handles messages until the inbox is closed.
  void Run();

 private:
  // A call is in one of four states: in preparation (no engine ids yet); generating; writing its
  // last messages; ended (`port` is null) while a lane's thread still runs its job.
  struct Call {
    uint64_t id = 0;
    Method method = Method::kGenerate;
    CallPort* port = nullptr;
    Caller caller;
    int64_t arrival_us = 0;
    std::string request_id;
    const ServedModel* model = nullptr;  // null until the request is prepared
    std::string adapter;                 // its name; empty: the base model
    int32_t num_sequences = 0;           // copies of a stream, inputs of an Embed
    std::vector<uint64_t> engine_ids;
    std::unique_ptr<StreamOutput> stream;
    std::unique_ptr<EmbedOutput> embed;
    bool admitted = false;  // the call counts among the admitted calls of LiveCalls
    bool preparing = false;
    Preparer* lane = nullptr;  // has the call's job under `ticket`; null: none has had one
    Preparer::Ticket ticket;
    bool write_in_flight = false;
    bool gone = false;
    bool paused = false;
  };

  void Handle(OpenMessage message);
  void Handle(PreparedMessage message);
  void Handle(WriteDoneMessage message);
  void Handle(GoneMessage message);
  void Handle(CancelMessage message);
  void Handle(CancelAllMessage message);
  void Handle(EventMessage message);

  Call* Find(uint64_t id);
  // Decides whether the call may be prepared. The checks cost little, because a server under load
  // makes them for many calls that it refuses.
  absl::Status Admit(Call* call);
  // The error of a request that the generator's queue has refused with `status`.
  absl::Status QueueError(const absl::Status& status) const;
  // Prepares the call in a lane. The lane's thread answers with a PreparedMessage.
  void PrepareIn(Preparer* lane, Call* call, std::shared_ptr<const std::string> bytes,
                 const PrepareOptions& options);
  absl::Status Submit(Call* call, PreparedCall prepared);
  // Starts the next write if none is in flight. Ends the call when its output is finished and
  // written.
  void Pump(Call* call);
  void Throttle(Call* call);
  void CancelEngine(const Call& call, CancelReason reason);
  // Ends the call with `status`. Deletes *call, unless a lane's thread is running its job:
  // then the job's PreparedMessage deletes it.
  void Finish(Call* call, const absl::Status& status);
  void Reply(Call* call, const google::protobuf::Message& message);
  void Close(Call* call, const absl::Status& status);
  // Frees the call's request id.
  void FreeName(const Call& call);
  void LogEnd(const Call& call, const absl::Status& status);

  ServingContext* const context_;
  PrepareLanes* const lanes_;
  const std::shared_ptr<Inbox> inbox_;  // shared: engine sinks may outlive the responder
  absl::flat_hash_map<uint64_t, std::unique_ptr<Call>> calls_;
};

}  // namespace tessera
