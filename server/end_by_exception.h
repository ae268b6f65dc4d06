// What happens when an exception has no handler. This code throws nothing, but the standard library
// throws when the system refuses memory or a thread.
#pragma once

namespace tessera {

// A handler for std::set_terminate. A refusal of memory or of a thread ends the process with status
// 1 and a line that says which limit to raise; any other exception aborts the process after a line.
// Any thread.
[[noreturn]] void EndByException();

}  // namespace tessera
