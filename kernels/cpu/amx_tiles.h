// TileUnit wraps the eight tile registers of AMX. This header contains all tile instructions of
// kernels/cpu. Built for AMX, a TileUnit executes the instructions; built for amxtwin, it executes
// scalar code with the same semantics, so that the AMX kernels can be tested on any machine.
//
// A tile has up to 16 rows of up to 64 bytes. C tiles (0 to 3) hold 16 fp32 or int32 sums per row,
// A tiles (4, 5) hold token rows, and B tiles (6, 7) hold lines of panels. The thread that creates
// a TileUnit owns it; a thread has at most one TileUnit at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace tessera::cpu::TESSERA_ISA {

inline constexpr int kTileRows = 16;
inline constexpr int kFirstATile = 4;
inline constexpr int kFirstBTile = 6;
inline constexpr int kNumTiles = 8;

// The operand of the instruction LDTILECFG.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Returns the configuration for rows0 and rows1 token rows in the two A tiles (0: tile not used).
// One tile product takes k_bytes bytes of each token row.
inline TileConfig MakeTileConfig(int rows0, int rows1, int k_bytes) {
  TileConfig config;
  for (int tile = 0; tile < kNumTiles; ++tile) {
    // C tiles 0, 1 and A tile 4 belong to the first rows0 rows, C tiles 2, 3 and A tile 5 to the
    // rows after them.
    const bool is_b = tile >= kFirstBTile;
    const bool second = tile < kFirstATile ? tile >= 2 : tile == kFirstATile + 1;
    const bool is_a = tile >= kFirstATile && !is_b;
    const int rows = is_b ? k_bytes / 4 : second ? rows1 : rows0;
    if (rows == 0) continue;
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.row_bytes[tile] = static_cast<uint16_t>(is_a ? k_bytes : 64);
  }
  return config;
}

#if defined(TESSERA_ISA_AMX)

class TileUnit {
 public:
  TileUnit() = default;
  ~TileUnit() { asm volatile("tilerelease" ::: "memory"); }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;

  void Configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
  template <int kTile>
  void Zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  void Load(const void* base, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void Store(void* base, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
  }
  // C += A * B for pairs of bf16.
  template <int kC, int kA, int kB>
  void DotBF16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
  // C += A * B for groups of 4 bytes. The bytes of A are signed, the bytes of B unsigned.
  template <int kC, int kA, int kB>
  void DotBytes() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};

#else

class TileUnit {
 public:
  TileUnit() = default;
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;

  void Configure(const TileConfig& config) {
    config_ = config;
    std::memset(data_, 0, sizeof(data_));
  }
  template <int kTile>
  void Zero() {
    std::memset(data_[kTile], 0, sizeof(data_[kTile]));
  }
  template <int kTile>
  void Load(const void* base, int64_t stride) {
    Zero<kTile>();
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(data_[kTile][r], static_cast<const char*>(base) + r * stride,
                  config_.row_bytes[kTile]);
    }
  }
  template <int kTile>
  void Store(void* base, int64_t stride) {
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(static_cast<char*>(base) + r * stride, data_[kTile][r], config_.row_bytes[kTile]);
    }
  }
  // The first numbers of the pairs and the second numbers are summed separately, in ascending order
  // of k; then the two sums are added to C.
  template <int kC, int kA, int kB>
  void DotBF16() {
    for (int m = 0; m < config_.rows[kC]; ++m) {
      for (int n = 0; n < kPanel; ++n) {
        float sums[2] = {0.0f, 0.0f};
        for (int k = 0; k < config_.rows[kB]; ++k) {
          for (int i = 0; i < 2; ++i) {
            sums[i] = __builtin_fmaf(BF16At(kA, m, 2 * k + i), BF16At(kB, k, 2 * n + i), sums[i]);
          }
        }
        float c;
        std::memcpy(&c, data_[kC][m] + 4 * n, sizeof(c));
        c += sums[0] + sums[1];
        std::memcpy(data_[kC][m] + 4 * n, &c, sizeof(c));
      }
    }
  }
  template <int kC, int kA, int kB>
  void DotBytes() {
    for (int m = 0; m < config_.rows[kC]; ++m) {
      for (int n = 0; n < kPanel; ++n) {
        int32_t c;
        std::memcpy(&c, data_[kC][m] + 4 * n, sizeof(c));
        for (int k = 0; k < 4 * config_.rows[kB]; ++k) {
          c += static_cast<int8_t>(data_[kA][m][k]) * int32_t{data_[kB][k / 4][4 * n + k % 4]};
        }
        std::memcpy(data_[kC][m] + 4 * n, &c, sizeof(c));
      }
    }
  }

 private:
  float BF16At(int tile, int row, int column) const {
    uint16_t half;
    std::memcpy(&half, data_[tile][row] + 2 * column, sizeof(half));
    const uint32_t bits = uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  TileConfig config_;
  uint8_t data_[kNumTiles][kTileRows][64] = {};
};

#endif

}  // namespace tessera::cpu::TESSERA_ISA
