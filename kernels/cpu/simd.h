// Selects the implementation of the 16-lane vectors V16 and I16, in which the per-ISA sources are
// written, by the TESSERA_ISA_... macro that the build defines. All functions are `static inline`,
// because object files of different ISAs must not share a function. If TESSERA_BASE_ISA is defined,
// the ISA's table is a copy of that ISA's table with some functions replaced.
#pragma once

#if defined(TESSERA_ISA_AMX)
#define TESSERA_ISA amx
#define TESSERA_BASE_ISA avx512bf16
#define TESSERA_ISA_NAME "amx"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/simd_int_avx512.h"
#elif defined(TESSERA_ISA_AMXTWIN)
#define TESSERA_ISA amxtwin
#define TESSERA_BASE_ISA avx2
#define TESSERA_ISA_NAME "amxtwin"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/simd_int_avx2.h"
#elif defined(TESSERA_ISA_AVX512BF16)
#define TESSERA_ISA avx512bf16
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/simd_int_avx512.h"
#elif defined(TESSERA_ISA_AVX512VNNI)
#define TESSERA_ISA avx512vnni
#define TESSERA_BASE_ISA avx512
#define TESSERA_ISA_NAME "avx512vnni"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/simd_int_avx512.h"
#elif defined(TESSERA_ISA_AVX512)
#define TESSERA_ISA avx512
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/simd_int_avx512.h"
#elif defined(TESSERA_ISA_AVXVNNI)
#define TESSERA_ISA avxvnni
#define TESSERA_BASE_ISA avx2
#define TESSERA_ISA_NAME "avxvnni"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/simd_int_avx2.h"
#else
#define TESSERA_ISA avx2
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/simd_int_avx2.h"
#endif

#include "kernels/cpu/simd_math.h"
