// Loaded before MindSpore's own libraries (LD_PRELOAD).
//
// For every stream MindSpore has a thread that asks the runtime for callbacks, again and again. A
// device lets it wait for some milliseconds; what stands in its place in dry-run returns at once, so
// that two threads spin, and beside them the compiler gets a third of a core. This one waits.

#include <time.h>

// int mindspore::device::ascend::SimuFuncIaclrtProcessReport<int>(int milliseconds)
extern "C" int _ZN9mindspore6device6ascend27SimuFuncIaclrtProcessReportIiEET_i(int) {
  const timespec pause{0, 20 * 1000 * 1000};
  nanosleep(&pause, nullptr);
  return 0;
}
