// A pretend device: memory is host memory that is backed when touched, copies are real, and kernels
// (all that stand_in.py defines by name alone) do nothing.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
extern "C" const char *aclrtGetSocName() { const char *s = getenv("STUB_SOC"); return s ? s : "Ascend910B2"; }
extern "C" int aclrtGetMemInfo(int, size_t *f, size_t *t) { *f = *t = (size_t)64 << 30; return 0; }
extern "C" int aclrtGetDeviceCount(unsigned *c) { *c = 8; return 0; }
// A pretend device: "device" memory is lazily backed host memory, copies are real, kernels (acl*/aclnn*) do nothing.
#include <sys/mman.h>
#include <mutex>
static std::mutex mu; static std::map<void *, size_t> live;
static int get_mem(void **p, size_t n) { if (!n) n = 64; void *a = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (a == MAP_FAILED) { *p = nullptr; return 207001; } std::lock_guard<std::mutex> g(mu); live[a] = n; *p = a; return 0; }
static int put_mem(void *p) { std::lock_guard<std::mutex> g(mu); auto i = live.find(p); if (i != live.end()) { munmap(p, i->second); live.erase(i); } return 0; }
static int handle(void **p) { *p = calloc(1, 64); return 0; }
extern "C" {
int aclrtMalloc(void **p, size_t n, int) { return get_mem(p, n); }
int aclrtMallocAlign32(void **p, size_t n, int) { return get_mem(p, n); }
int aclrtMallocHost(void **p, size_t n) { return get_mem(p, n); }
int aclrtReserveMemAddress(void **p, size_t n, size_t, void *, uint64_t) { return get_mem(p, n); }
int aclrtFree(void *p) { return put_mem(p); }
int aclrtFreeHost(void *p) { return put_mem(p); }
int aclrtReleaseMemAddress(void *p) { return put_mem(p); }
int aclrtMallocPhysical(void **p, size_t, const void *, uint64_t) { return handle(p); }
int aclrtMemcpy(void *d, size_t, const void *s, size_t n, int) { if (d && s) memmove(d, s, n); return 0; }
int aclrtMemcpyAsync(void *d, size_t, const void *s, size_t n, int, void *) { if (d && s) memmove(d, s, n); return 0; }
int aclrtMemset(void *d, size_t, int v, size_t n) { if (d) memset(d, v, n); return 0; }
int aclrtMemsetAsync(void *d, size_t, int v, size_t n, void *) { if (d) memset(d, v, n); return 0; }
static thread_local void *ctx; static thread_local int dev;
int aclrtSetDevice(int d) { dev = d; if (!ctx) handle(&ctx); return 0; }
int aclrtGetDevice(int *d) { *d = dev; return 0; }
int aclrtCreateContext(void **c, int) { handle(&ctx); *c = ctx; return 0; }
int aclrtGetCurrentContext(void **c) { if (!ctx) handle(&ctx); *c = ctx; return 0; }
int aclrtSetCurrentContext(void *c) { ctx = c; return 0; }
int aclrtGetRunMode(int *m) { *m = 1; return 0; }
int aclrtCreateStream(void **s) { return handle(s); }
int aclrtCreateStreamWithConfig(void **s, uint32_t, uint32_t) { return handle(s); }
int aclrtCreateEventWithFlag(void **e, uint32_t) { return handle(e); }
int aclrtCreateEventExWithFlag(void **e, uint32_t) { return handle(e); }
int aclrtQueryEventStatus(void *, int *s) { *s = 1; return 0; }
int aclrtEventElapsedTime(float *t, void *, void *) { *t = 0; return 0; }
size_t aclDataTypeSize(int t) { static const unsigned char z[] = {4, 2, 1, 4, 1, 0, 2, 2, 4, 8, 8, 8, 1}; return t >= 0 && t < 13 ? z[t] : t == 27 ? 2 : t == 16 ? 8 : t == 17 ? 16 : 4; }
struct Buf { void *p; size_t n; };
void *aclCreateDataBuffer(void *p, size_t n) { return new Buf{p, n}; }
int aclDestroyDataBuffer(void *b) { delete (Buf *)b; return 0; }
void *aclGetDataBufferAddr(const void *b) { return b ? ((Buf *)b)->p : nullptr; }
int aclUpdateDataBuffer(void *b, void *p, size_t n) { if (b) *(Buf *)b = {p, n}; return 0; }
}
