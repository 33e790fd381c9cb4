// AdamW's step on one array, parameters included, in one pass over memory: seven words for each number.
//
// XLA's CPU backend makes one kernel for each result, and each reads its operands anew. This handler reads the gradient,
// the two moments and the parameter once, and writes moments and parameter in place. XLA's own threads share the work.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

constexpr int64_t kBlock = 1 << 15;  // numbers that a thread takes at a time

struct Numbers {  // in the order of NUMBERS in adam.py
  float factor, b1, complement1, b2, complement2, weight1, weight2, eps, eps_root, decay, rate, bound;
};

struct BFloat16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }

inline float widen(BFloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline void narrow(float x, float& to) { to = x; }

inline void narrow(float x, BFloat16& to) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = uint16_t(x != x ? (bits >> 16) | 0x40 : rounded);
}

template <typename T>
struct Arrays {
  const T *g, *p;
  const float *mu, *nu;
  T* new_p;
  float *new_mu, *new_nu;
};

template <typename T>
FOR_EACH_PROCESSOR void step(const Numbers n, const Arrays<T> a, int64_t begin, int64_t end) {
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) {
    float g = widen(a.g[i]) * n.factor;
    g = g > n.bound ? n.bound : g;  // NaN stays
    g = g < -n.bound ? -n.bound : g;
    float mu = n.b1 * a.mu[i] + n.complement1 * g;
    float nu = n.b2 * a.nu[i] + n.complement2 * (g * g);
    float p = widen(a.p[i]);
    float root = std::sqrt(nu / n.weight2 + n.eps_root) + n.eps;
    float u = root == 0 ? 0 : (mu / n.weight1) / root;
    u = -n.rate * (n.decay == 0 ? u : u + n.decay * p);  // without decay an infinite parameter isn't NaN
    T update;  // rounded to the parameter's dtype before it is added, as by update and apply_updates
    narrow(u, update);
    narrow(p + widen(update), a.new_p[i]);
    a.new_mu[i] = mu;
    a.new_nu[i] = nu;
  }
}

// Blocks that threads take one by one. The calling thread takes them, too, so it never waits for one that hasn't begun;
// a thread that comes late finds nothing left, and touches nothing but this.
template <typename T>
struct Work {
  Numbers numbers;
  Arrays<T> arrays;
  int64_t size, blocks;
  std::atomic<int64_t> taken{0}, done{0};
  std::mutex mutex;
  std::condition_variable finished;

  void take() {
    for (int64_t k; (k = taken.fetch_add(1)) < blocks;) {
      step(numbers, arrays, k * kBlock, std::min(size, (k + 1) * kBlock));
      if (done.fetch_add(1) + 1 == blocks) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_all();
      }
    }
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return done.load() == blocks; });
  }
};

template <ffi::DataType dtype, typename T>
ffi::Error run(ffi::ThreadPool pool, ffi::BufferR1<ffi::F32> numbers, ffi::Buffer<dtype> g, ffi::Buffer<ffi::F32> mu,
               ffi::Buffer<ffi::F32> nu, ffi::Buffer<dtype> p, ffi::ResultBuffer<dtype> new_p,
               ffi::ResultBuffer<ffi::F32> new_mu, ffi::ResultBuffer<ffi::F32> new_nu) {
  auto work = std::make_shared<Work<T>>();
  if (numbers.size_bytes() != sizeof(Numbers)) return ffi::Error::InvalidArgument("adam: wrong number of numbers");
  std::memcpy(&work->numbers, numbers.typed_data(), sizeof(Numbers));
  work->arrays = {reinterpret_cast<const T*>(g.typed_data()), reinterpret_cast<const T*>(p.typed_data()),
                  mu.typed_data(), nu.typed_data(), reinterpret_cast<T*>(new_p->typed_data()),
                  new_mu->typed_data(), new_nu->typed_data()};
  work->size = g.element_count();
  work->blocks = (work->size + kBlock - 1) / kBlock;
  int64_t helpers = std::min<int64_t>(pool.num_threads(), work->blocks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work->take(); });
  work->take();
  work->wait();
  return ffi::Error::Success();
}

template <ffi::DataType dtype>
auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::BufferR1<ffi::F32>>()
      .template Arg<ffi::Buffer<dtype>>()
      .template Arg<ffi::Buffer<ffi::F32>>()
      .template Arg<ffi::Buffer<ffi::F32>>()
      .template Arg<ffi::Buffer<dtype>>()
      .template Ret<ffi::Buffer<dtype>>()
      .template Ret<ffi::Buffer<ffi::F32>>()
      .template Ret<ffi::Buffer<ffi::F32>>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(adam_float32, (run<ffi::F32, float>), binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adam_bfloat16, (run<ffi::BF16, BFloat16>), binding<ffi::BF16>());
