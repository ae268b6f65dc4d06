// Which sanitizers this binary was built with. g++ and clang say it in different ways.
#pragma once

#ifndef __has_feature
#define __has_feature(feature) 0
#define TESSERA_UNDEF_HAS_FEATURE
#endif

namespace tessera::testing {

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// Tests that repeat something many times do so less often, and take no measure of memory, in such a
// build.
inline constexpr bool kSanitized = kAddressSanitizer || kThreadSanitizer;

}  // namespace tessera::testing

#ifdef TESSERA_UNDEF_HAS_FEATURE
#undef __has_feature
#undef TESSERA_UNDEF_HAS_FEATURE
#endif
