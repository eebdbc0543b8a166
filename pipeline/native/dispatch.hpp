// Builds a function once for every instruction set worth having and picks at load time.
//
// Compilers that can do it (GCC, and Clang on glibc Linux) make the clones themselves; everywhere
// else (macOS, musl, aarch64 …) the macro is empty and the portable build runs: same results, but for roundings.
#pragma once

#include <cstddef>  // says whether this is glibc

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && !defined(DEEPLAB_STREAM_PORTABLE)
#if defined(__clang__)
#if __clang_major__ >= 14
#define MULTIVERSION __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#elif defined(__GNUC__) && __GNUC__ >= 12
#define MULTIVERSION __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#elif defined(__GNUC__) && __GNUC__ >= 9
#define MULTIVERSION __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#endif
#ifndef MULTIVERSION
#define MULTIVERSION
#endif

// Pulled into every clone of its caller, so that it is compiled for the caller's instruction set.
#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#define RESTRICT __restrict__
#else
#define INLINE inline
#define RESTRICT
#endif
