// Loops over arrays of one shape, in place, shared by XLA's threads.
//
// XLA's CPU backend makes one kernel for each result, and each reads its operands anew. A loop computes all results of an
// elementwise program at once: it reads each operand once, and writes each result once. Loops are compiled one by one (see
// library.py) and made known here.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Loop = void (*)(void** arrays, const float* numbers, int64_t begin, int64_t end);

constexpr int64_t kShare = 1 << 15;  // elements that a thread takes at a time

std::mutex mutex;
std::unordered_map<std::string, Loop> loops;

// Shares that threads take one by one. The calling thread takes them, too, so it never waits for one that hasn't begun; a
// thread that comes late finds nothing left, and touches nothing but this.
struct Work {
  Loop loop;
  std::vector<void*> arrays;
  std::vector<float> numbers;
  int64_t size, shares;
  std::atomic<int64_t> taken{0}, done{0};
  std::mutex mutex;
  std::condition_variable finished;

  void take() {
    for (int64_t k; (k = taken.fetch_add(1)) < shares;) {
      loop(arrays.data(), numbers.data(), k * kShare, std::min(size, (k + 1) * kShare));
      if (done.fetch_add(1) + 1 == shares) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_all();
      }
    }
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return done.load() == shares; });
  }
};

ffi::Error run(ffi::ThreadPool pool, ffi::BufferR1<ffi::F32> numbers, ffi::RemainingArgs operands,
               ffi::RemainingRets results, std::string_view name) {
  auto work = std::make_shared<Work>();
  {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = loops.find(std::string(name));
    if (found == loops.end())
      return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                        "gradchain.native: this program was traced by another process, and this one hasn't loaded its "
                        "loops; trace it here, or there with GRADCHAIN_NATIVE=0");
    work->loop = found->second;
  }
  work->numbers.assign(numbers.typed_data(), numbers.typed_data() + numbers.element_count());
  for (size_t i = 0; i < operands.size(); ++i) {
    auto operand = operands.get<ffi::AnyBuffer>(i);
    if (operand.has_error()) return operand.error();
    work->arrays.push_back(operand->untyped_data());
    work->size = operand->element_count();
  }
  for (size_t i = 0; i < results.size(); ++i) {
    auto result = results.get<ffi::AnyBuffer>(i);
    if (result.has_error()) return result.error();
    work->arrays.push_back((*result)->untyped_data());
  }
  work->shares = (work->size + kShare - 1) / kShare;
  int64_t helpers = std::min<int64_t>(pool.num_threads(), work->shares) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work->take(); });
  work->take();
  work->wait();
  return ffi::Error::Success();
}

}  // namespace

extern "C" void add_loop(const char* name, Loop loop) {
  std::lock_guard<std::mutex> lock(mutex);
  loops[name] = loop;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(run_loop, run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::BufferR1<ffi::F32>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("loop"));
