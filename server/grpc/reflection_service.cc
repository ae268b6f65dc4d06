#include "server/grpc/reflection_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "server/call/errors.h"
#include "server/grpc/authenticator.h"
#include "server/grpc/byte_buffers.h"
#include "server/grpc/status.h"

namespace tessera {
namespace {

namespace reflection = grpc::reflection::v1;
using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using grpc::ByteBuffer;

constexpr size_t kMaxNameBytes = 200;  // of a client's name in an error message

const DescriptorPool& Pool() { return *DescriptorPool::generated_pool(); }

void SetNotFound(const std::string& name, reflection::ServerReflectionResponse* response) {
  reflection::ErrorResponse* const error = response->mutable_error_response();
  error->set_error_code(grpc::StatusCode::NOT_FOUND);
  error->set_error_message(
      absl::StrCat("there is no '", CutText(name, kMaxNameBytes), "' on this server"));
}

// Adds the file and the files that it imports, each once.
void AddFiles(const FileDescriptor* file, absl::flat_hash_set<const FileDescriptor*>* added,
              reflection::FileDescriptorResponse* response) {
  if (!added->insert(file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  proto.SerializeToString(response->add_file_descriptor_proto());
  for (int i = 0; i < file->dependency_count(); ++i) {
    AddFiles(file->dependency(i), added, response);
  }
}

// Answers with the file, or with an error about `name` if `file` is null.
void SetFile(const FileDescriptor* file, const std::string& name,
             reflection::ServerReflectionResponse* response) {
  if (file == nullptr) return SetNotFound(name, response);
  absl::flat_hash_set<const FileDescriptor*> added;
  AddFiles(file, &added, response->mutable_file_descriptor_response());
}

void SetExtensionFile(const reflection::ExtensionRequest& request,
                      reflection::ServerReflectionResponse* response) {
  const Descriptor* const type = Pool().FindMessageTypeByName(request.containing_type());
  const FieldDescriptor* const extension =
      type == nullptr ? nullptr : Pool().FindExtensionByNumber(type, request.extension_number());
  SetFile(extension == nullptr ? nullptr : extension->file(),
          absl::StrCat(request.containing_type(), "' with extension '", request.extension_number()),
          response);
}

void SetExtensionNumbers(const std::string& type_name,
                         reflection::ServerReflectionResponse* response) {
  const Descriptor* const type = Pool().FindMessageTypeByName(type_name);
  if (type == nullptr) return SetNotFound(type_name, response);
  std::vector<const FieldDescriptor*> extensions;
  Pool().FindAllExtensions(type, &extensions);
  reflection::ExtensionNumberResponse* const numbers =
      response->mutable_all_extension_numbers_response();
  numbers->set_base_type_name(type_name);
  for (const FieldDescriptor* extension : extensions) {
    numbers->add_extension_number(extension->number());
  }
}

void Answer(const std::vector<std::string>& services,
            const reflection::ServerReflectionRequest& request,
            reflection::ServerReflectionResponse* response) {
  response->Clear();
  response->set_valid_host(request.host());
  *response->mutable_original_request() = request;
  switch (request.message_request_case()) {
    case reflection::ServerReflectionRequest::kFileByFilename:
      return SetFile(Pool().FindFileByName(request.file_by_filename()), request.file_by_filename(),
                     response);
    case reflection::ServerReflectionRequest::kFileContainingSymbol:
      return SetFile(Pool().FindFileContainingSymbol(request.file_containing_symbol()),
                     request.file_containing_symbol(), response);
    case reflection::ServerReflectionRequest::kFileContainingExtension:
      return SetExtensionFile(request.file_containing_extension(), response);
    case reflection::ServerReflectionRequest::kAllExtensionNumbersOfType:
      return SetExtensionNumbers(request.all_extension_numbers_of_type(), response);
    case reflection::ServerReflectionRequest::kListServices:
      for (const std::string& name : services) {
        response->mutable_list_services_response()->add_service()->set_name(name);
      }
      return;
    case reflection::ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      break;
  }
  reflection::ErrorResponse* const error = response->mutable_error_response();
  error->set_error_code(grpc::StatusCode::INVALID_ARGUMENT);
  error->set_error_message("the request asks for nothing; set one of its fields");
}

// One stream of requests. One read or one write is pending at any time.
class ReflectionStream final : public grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  ReflectionStream(const std::vector<std::string>& services, const absl::Status& status)
      : services_(services) {
    status.ok() ? StartRead(&request_) : Finish(ToGrpcStatus(status));
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    const absl::Status status = Respond();
    if (!status.ok()) return Finish(ToGrpcStatus(status));
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  absl::Status Respond() {
    reflection::ServerReflectionRequest request;
    if (!request.ParseFromString(TakeBytes(&request_))) {
      return MakeError(absl::StatusCode::kInvalidArgument, "NOT_A_MESSAGE",
                       "the message is not a ServerReflectionRequest");
    }
    reflection::ServerReflectionResponse response;
    Answer(services_, request, &response);
    response_.Clear();
    return Serialize(response, &response_);
  }

  const std::vector<std::string>& services_;
  ByteBuffer request_;
  ByteBuffer response_;
};

// `Version` is the generated class of one version of the protocol. The messages of all versions
// have the same bytes.
template <class Version>
class ReflectionService final : public Version::template WithRawCallbackMethod_ServerReflectionInfo<
                                    typename Version::Service> {
 public:
  ReflectionService(std::vector<std::string> services, const Authenticator* authenticator)
      : services_(std::move(services)), authenticator_(authenticator) {}

  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* ServerReflectionInfo(
      grpc::CallbackServerContext* call) override {
    return new ReflectionStream(services_, authenticator_->Identify(*call).status());
  }

 private:
  const std::vector<std::string> services_;
  const Authenticator* const authenticator_;
};

}  // namespace

std::vector<std::unique_ptr<grpc::Service>> NewReflectionServices(
    const std::vector<std::string>& services, const Authenticator* authenticator) {
  std::vector<std::unique_ptr<grpc::Service>> versions;
  versions.push_back(
      std::make_unique<ReflectionService<reflection::ServerReflection>>(services, authenticator));
  versions.push_back(
      std::make_unique<ReflectionService<grpc::reflection::v1alpha::ServerReflection>>(
          services, authenticator));
  return versions;
}

}  // namespace tessera
