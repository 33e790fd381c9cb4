// What the loops that gradchain.native.code writes are made of.

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && (!defined(__clang__) || __clang_major__ >= 17)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

static inline float widen(float x) { return x; }

static inline float widen(uint16_t x) {  // from bfloat16
  uint32_t bits = uint32_t(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

static inline uint16_t narrow(float x) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return uint16_t(x != x ? (bits >> 16) | 0x40 : rounded);
}

static inline float rounded(float x) { return widen(narrow(x)); }

static inline float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; }

static inline float maximum(float x, float y) { return x > y || x != x ? x : y; }

static inline float minimum(float x, float y) { return x < y || x != x ? x : y; }
