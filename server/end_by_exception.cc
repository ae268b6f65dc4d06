#include "server/end_by_exception.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <system_error>

namespace tessera {

void EndByException() {
  try {
    if (const std::exception_ptr thrown = std::current_exception()) std::rethrow_exception(thrown);
    std::fputs("tesserad: ended by std::terminate without an exception\n", stderr);
  } catch (const std::bad_alloc&) {
    std::fputs(
        "tesserad: out of memory: lower --kv-cache-bytes or --max-num-batched-tokens, or raise the "
        "limit of address space (ulimit -v)\n",
        stderr);
    std::_Exit(1);
  } catch (const std::system_error& e) {
    std::fprintf(
        stderr,
        "tesserad: the system refuses a thread or another resource: %s; raise the limit of "
        "threads (ulimit -u, pids.max of the cgroup, TasksMax of the systemd unit)\n",
        e.what());
    std::_Exit(1);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "tesserad: ended by an exception: %s\n", e.what());
  }
  std::abort();
}

}  // namespace tessera
