/* A libnvidia-ml.so.1 that does what a state file says, for tests that run the real pynvml.
 *
 * GPUHEAL_STUB_STATE names a file of "key value" lines, read again whenever it changes, so a test can change the world while the
 * exporter runs. GPUHEAL_STUB_LOG, when set, receives one line per nvmlInitWithFlags and nvmlShutdown.
 *
 *   profile h100|a100|gb200|mig    what the healthy machine is (count, product, links, fabric)
 *   count N                        number of GPUs
 *   rc.SYMBOL N                    that function returns NVML code N
 *   hang.SYMBOL 1                  that function does not return while the line is there
 *   gpu.I.rc.SYMBOL, gpu.I.hang.SYMBOL   the same for one GPU
 *   gpu.I.lost 1                   every call on that GPU returns 15 (NVML_ERROR_GPU_IS_LOST)
 *   gpu.I.missing 1                the GPU is not enumerated; indexes behind it move up
 *   field.F N, gpu.I.field.F N     field value; field.F.scope.S for one link
 *   NAME N, gpu.I.NAME N           the values read below by num()
 *
 * Struct layouts and versions follow nvml.h; a struct whose version word is unknown is answered with 25, as the driver does. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_LINES 256
#define BASE 0x1000L /* handle of GPU 0; MIG device M of GPU I is BASE + 0x100 * (M + 1) + I */
typedef unsigned long long u64;
typedef struct { char key[80]; char text[80]; } line_t;

static line_t lines[MAX_LINES];
static int n_lines;
static struct timespec seen;
static off_t seen_size = -1;

static void load(void) {
  const char *path = getenv("GPUHEAL_STUB_STATE");
  struct stat st;
  if (!path || stat(path, &st)) { n_lines = 0; return; }
  if (st.st_mtim.tv_sec == seen.tv_sec && st.st_mtim.tv_nsec == seen.tv_nsec && st.st_size == seen_size) return;
  FILE *f = fopen(path, "r");
  if (!f) return;
  int n = 0;
  while (n < MAX_LINES && fscanf(f, "%79s %79[^\n]", lines[n].key, lines[n].text) == 2) n++;
  fclose(f);
  n_lines = n;
  seen = st.st_mtim;
  seen_size = st.st_size;
}

static const char *text(int gpu, const char *key, const char *otherwise) {
  char own[96];
  snprintf(own, sizeof own, "gpu.%d.%s", gpu, key);
  const char *found = otherwise;
  for (int i = 0; i < n_lines; i++) {
    if (gpu >= 0 && !strcmp(lines[i].key, own)) return lines[i].text;
    if (!strcmp(lines[i].key, key)) found = lines[i].text;
  }
  return found;
}
static u64 num(int gpu, const char *key, u64 otherwise) {
  const char *found = text(gpu, key, NULL);
  return found ? strtoull(found, NULL, 0) : otherwise;
}
static int is(const char *profile) { return !strcmp(text(-1, "profile", "h100"), profile); }
static int hopper(void) { return is("h100") || is("mig"); }
static int count(void) { return (int)num(-1, "count", is("gb200") ? 4 : is("mig") ? 2 : 8); }
static int link_count(void) { return is("a100") ? 12 : 18; }
static int gpu_of(void *dev) { return (int)((long)dev & 0xff); }
static int mig_of(void *dev) { return (int)(((long)dev - BASE) >> 8) - 1; }

/* Returns the scripted code of a call; does not return while the call is scripted to hang. */
static int enter(const char *symbol, void *dev) {
  char key[96];
  int gpu = dev ? gpu_of(dev) : -1;
  load();
  snprintf(key, sizeof key, "hang.%s", symbol);
  while (num(gpu, key, 0)) { usleep(5000); load(); }
  if (dev && num(gpu, "lost", 0)) return 15;
  snprintf(key, sizeof key, "rc.%s", symbol);
  return (int)num(gpu, key, 0);
}
#define ENTER(dev) { int rc_ = enter(__func__, dev); if (rc_) return rc_; }
#define LINK_OR_2(link) { if ((int)(link) >= link_count()) return 2; }
#define UNLESS(condition, code) { if (!(condition)) return code; }

static void note(const char *what) {
  const char *path = getenv("GPUHEAL_STUB_LOG");
  FILE *f = path ? fopen(path, "a") : NULL;
  if (f) { fprintf(f, "%s %d\n", what, (int)getpid()); fclose(f); }
}

API int nvmlInitWithFlags(unsigned flags) { ENTER(NULL) note("init"); return 0; }
API int nvmlShutdown(void) { ENTER(NULL) note("shutdown"); return 0; }
API const char *nvmlErrorString(int rc) { return "scripted error"; }
API int nvmlSystemGetDriverVersion(char *b, unsigned n) { ENTER(NULL) snprintf(b, n, "%s", text(-1, "driver", "570.133.20")); return 0; }
API int nvmlSystemGetNVMLVersion(char *b, unsigned n) { ENTER(NULL) snprintf(b, n, "12.570.133.20"); return 0; }
API int nvmlSystemGetCudaDriverVersion_v2(int *v) { ENTER(NULL) *v = 12080; return 0; }

API int nvmlDeviceGetCount_v2(unsigned *n) {
  ENTER(NULL)
  *n = 0;
  for (int i = 0; i < count(); i++) *n += !num(i, "missing", 0);
  return 0;
}
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **dev) {
  ENTER(NULL)
  for (int i = 0; i < count(); i++) {
    if (num(i, "missing", 0) || index--) continue;
    *dev = (void *)(BASE + i);
    return enter(__func__, *dev);
  }
  return 2;
}
API int nvmlDeviceGetUUID(void *dev, char *b, unsigned n) {
  ENTER(dev)
  char otherwise[48];
  if (mig_of(dev) >= 0) snprintf(b, n, "MIG-%08x-0000-4000-8000-%012x", 0x30 + mig_of(dev), gpu_of(dev));
  else {
    snprintf(otherwise, sizeof otherwise, "GPU-%08x-0000-4000-8000-%012x", 0x11111111, gpu_of(dev));
    snprintf(b, n, "%s", text(gpu_of(dev), "uuid", otherwise));
  }
  return 0;
}
API int nvmlDeviceGetName(void *dev, char *b, unsigned n) {
  ENTER(dev)
  snprintf(b, n, "%s", is("a100") ? "NVIDIA A100-SXM4-80GB" : is("gb200") ? "NVIDIA GB200" : "NVIDIA H100 80GB HBM3");
  return 0;
}
API int nvmlDeviceGetSerial(void *dev, char *b, unsigned n) { ENTER(dev) snprintf(b, n, "16501230000%02d", gpu_of(dev)); return 0; }
API int nvmlDeviceGetMinorNumber(void *dev, unsigned *v) { ENTER(dev) *v = gpu_of(dev); return 0; }
API int nvmlDeviceGetModuleId(void *dev, unsigned *v) { ENTER(dev) *v = gpu_of(dev) + 1; return 0; }
API int nvmlDeviceGetPersistenceMode(void *dev, int *v) { ENTER(dev) *v = num(gpu_of(dev), "persistence", 1); return 0; }

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
API int nvmlDeviceGetPciInfo_v3(void *dev, pci_t *p) {
  ENTER(dev)
  static const int h100[] = {0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf};
  int i = gpu_of(dev);
  memset(p, 0, sizeof *p);
  p->domain = is("gb200") ? 8 * (i + 1) : 0;
  p->bus = is("gb200") ? 1 : (unsigned)num(i, "bus", h100[i % 8] + i / 8);
  p->id = 0x233010de;
  snprintf(p->legacy, sizeof p->legacy, "%04X:%02X:00.0", p->domain, p->bus);
  snprintf(p->bus_id, sizeof p->bus_id, "%08X:%02X:00.0", p->domain, p->bus);
  return 0;
}
typedef struct { unsigned version; char ib[16], chassis[16]; unsigned char slot, tray, host, peer, module; } platform_t;
API int nvmlDeviceGetPlatformInfo(void *dev, platform_t *p) {
  ENTER(dev) UNLESS(is("gb200"), 3) UNLESS(p->version == 0x200002c, 25)
  memset(p->ib, 0, 16);
  memcpy(p->chassis, "1820025000123", 14);
  p->slot = 7; p->tray = 3; p->host = 1; p->peer = 1; p->module = gpu_of(dev) + 1;
  return 0;
}

API int nvmlDeviceGetMigMode(void *dev, unsigned *now, unsigned *pending) {
  ENTER(dev) UNLESS(!is("gb200"), 3)
  *now = *pending = num(gpu_of(dev), "mig", is("mig"));
  return 0;
}
API int nvmlDeviceGetMaxMigDeviceCount(void *dev, unsigned *n) { ENTER(dev) *n = is("mig") ? 7 : 0; return 0; }
API int nvmlDeviceGetMigDeviceHandleByIndex(void *dev, unsigned i, void **mig) {
  ENTER(dev) UNLESS(i < num(gpu_of(dev), "instances", is("mig") ? 2 : 0), 6)
  *mig = (void *)(BASE + 0x100L * (i + 1) + gpu_of(dev));
  return 0;
}
API int nvmlDeviceGetGpuInstanceId(void *dev, unsigned *v) { ENTER(dev) *v = mig_of(dev) + 1; return 0; }
API int nvmlDeviceGetComputeInstanceId(void *dev, unsigned *v) { ENTER(dev) *v = 0; return 0; }

typedef struct { unsigned id, scope; long long at, took; int type, rc; u64 value; } field_t;
API int nvmlDeviceGetFieldValues(void *dev, int n, field_t *f) {
  ENTER(dev)
  for (int i = 0; i < n; i++) {
    char key[64], scoped[64];
    int gpu = gpu_of(dev), id = f[i].id, nvlink5 = (id >= 206 && id <= 222) || (id >= 235 && id <= 250);
    snprintf(key, sizeof key, "field.%d", id);
    snprintf(scoped, sizeof scoped, "field.%d.scope.%d", id, (int)f[i].scope);
    u64 otherwise = id == 91 ? (u64)link_count() : 0;
    f[i].value = num(gpu, scoped, num(gpu, key, otherwise));
    f[i].type = 3;
    f[i].rc = 0;
    if (id >= 193 && id <= 196) {
      f[i].type = 5;
      f[i].value = (unsigned)(int)(id == 193 ? -8 : id == 194 ? -2 : 0);
      if (is("a100")) f[i].rc = 3;
    }
    if (id == 230 && num(-1, "old_driver", 0)) f[i].rc = 3;
    if (nvlink5 && !is("gb200")) f[i].rc = 3;
    if (nvlink5 && (int)f[i].scope >= link_count()) f[i].rc = 2;
    if (id > 308) f[i].rc = 3;
  }
  return 0;
}

API int nvmlDeviceGetEccMode(void *dev, unsigned *now, unsigned *pending) { ENTER(dev) *now = *pending = num(gpu_of(dev), "ecc", 1); return 0; }
API int nvmlDeviceGetTotalEccErrors(void *dev, int kind, int counter, u64 *v) {
  ENTER(dev)
  *v = num(gpu_of(dev), kind ? (counter ? "ecc_unc_agg" : "ecc_unc_vol") : (counter ? "ecc_cor_agg" : "ecc_cor_vol"), 0);
  return 0;
}
API int nvmlDeviceGetMemoryErrorCounter(void *dev, int kind, int counter, int place, u64 *v) {
  char key[40];
  ENTER(dev) UNLESS(place == 2 || place == 7, 3)
  snprintf(key, sizeof key, "ecc_%s_%s_%s", place == 2 ? "dram" : "sram", kind ? "unc" : "cor", counter ? "agg" : "vol");
  *v = num(gpu_of(dev), key, 0);
  return 0;
}
typedef struct { unsigned version; u64 n[11]; unsigned over; } sram_t;
API int nvmlDeviceGetSramEccErrorStatus(void *dev, sram_t *s) {
  ENTER(dev) UNLESS(hopper() || is("gb200"), 3) UNLESS(s->version == 0x1000068, 25)
  memset(s->n, 0, sizeof s->n);
  s->n[0] = num(gpu_of(dev), "sram_parity", 0);
  s->n[1] = num(gpu_of(dev), "sram_secded", 0);
  s->n[6] = num(gpu_of(dev), "sram_l2", 0);
  s->over = num(gpu_of(dev), "sram_over", 0);
  return 0;
}
API int nvmlDeviceGetRemappedRows(void *dev, unsigned *cor, unsigned *unc, unsigned *pending, unsigned *failed) {
  ENTER(dev) UNLESS(!is("mig"), 3)
  *cor = num(gpu_of(dev), "rows_cor", 0);
  *unc = num(gpu_of(dev), "rows_unc", 0);
  *pending = num(gpu_of(dev), "rows_pending", 0);
  *failed = num(gpu_of(dev), "rows_failed", 0);
  return 0;
}
typedef struct { unsigned max, high, partial, low, none; } banks_t;
API int nvmlDeviceGetRowRemapperHistogram(void *dev, banks_t *b) {
  ENTER(dev) UNLESS(!is("mig"), 3)
  b->low = num(gpu_of(dev), "banks_low", 0);
  b->none = num(gpu_of(dev), "banks_none", 0);
  b->high = b->partial = 0;
  b->max = 2560 - b->low - b->none;
  return 0;
}
API int nvmlDeviceGetRetiredPages_v2(void *dev, int cause, unsigned *n, u64 *pages, u64 *times) {
  ENTER(dev) UNLESS(num(-1, "volta", 0), 3)
  unsigned have = num(gpu_of(dev), cause ? "pages_dbe" : "pages_sbe", 0);
  if (*n < have) { *n = have; return 7; }
  for (unsigned i = 0; i < have; i++) { pages[i] = 0x1000 * (i + 1); times[i] = 1; }
  *n = have;
  return 0;
}
API int nvmlDeviceGetRetiredPagesPendingStatus(void *dev, unsigned *v) {
  ENTER(dev) UNLESS(num(-1, "volta", 0), 3)
  *v = num(gpu_of(dev), "pages_pending", 0);
  return 0;
}
API int nvmlDeviceGetRepairStatus(void *dev, unsigned *s) {
  ENTER(dev) UNLESS(is("gb200"), 3) UNLESS(s[0] == 0x100000c, 25)
  s[1] = num(gpu_of(dev), "channel_repair", 0);
  s[2] = num(gpu_of(dev), "tpc_repair", 0);
  return 0;
}
API int nvmlDeviceGetUnrepairableMemoryFlag_v1(void *dev, unsigned *s) {
  ENTER(dev) UNLESS(is("gb200"), 3) UNLESS(s[0] == 0x1000008, 25)
  s[1] = num(gpu_of(dev), "unrepairable", 0);
  return 0;
}

API int nvmlDeviceGetNvLinkState(void *dev, unsigned link, unsigned *v) {
  char key[32];
  ENTER(dev) LINK_OR_2(link)
  snprintf(key, sizeof key, "link.%u", link);
  *v = num(gpu_of(dev), key, num(gpu_of(dev), "links", 1));
  return 0;
}
API int nvmlDeviceGetNvLinkVersion(void *dev, unsigned link, unsigned *v) {
  ENTER(dev) LINK_OR_2(link)
  *v = is("a100") ? 4 : is("gb200") ? 7 : 6;
  return 0;
}
API int nvmlDeviceGetNvLinkErrorCounter(void *dev, unsigned link, unsigned which, u64 *v) {
  static const char *kinds[] = {"replay", "recovery", "crc_flit", "crc_data", "ecc"};
  char key[40];
  ENTER(dev) LINK_OR_2(link) UNLESS(!is("gb200"), 3) UNLESS(which < 5, 2)
  snprintf(key, sizeof key, "link.%u.%s", link, kinds[which]);
  *v = num(gpu_of(dev), key, 0);
  return 0;
}

typedef struct { unsigned version; unsigned char uuid[16]; unsigned status, clique; unsigned char state; unsigned mask; unsigned char summary; } fabric_t;
API int nvmlDeviceGetGpuFabricInfoV(void *dev, fabric_t *f) {
  ENTER(dev) UNLESS(!is("a100"), 3)
  int newest = f->version == 0x3000028 && !num(-1, "old_driver", 0);
  UNLESS(newest || f->version == 0x2000024, 25)
  memset(f->uuid, is("gb200") ? 0xab : 0, 16);
  f->status = num(gpu_of(dev), "fabric_status", 0);
  f->clique = is("gb200") ? 32766 : 0;
  f->state = num(gpu_of(dev), "fabric_state", 3);
  f->mask = num(gpu_of(dev), "fabric_mask", is("gb200") ? 0x51aa : 0x1aa);
  if (newest) f->summary = num(gpu_of(dev), "fabric_summary", 1);
  return 0;
}

API int nvmlDeviceGetPcieReplayCounter(void *dev, unsigned *v) { ENTER(dev) *v = num(gpu_of(dev), "pcie_replays", 0); return 0; }
API int nvmlDeviceGetCurrPcieLinkGeneration(void *dev, unsigned *v) { ENTER(dev) *v = num(gpu_of(dev), "pcie_gen", is("a100") ? 4 : 5); return 0; }
API int nvmlDeviceGetMaxPcieLinkGeneration(void *dev, unsigned *v) { ENTER(dev) *v = is("a100") ? 4 : 5; return 0; }
API int nvmlDeviceGetCurrPcieLinkWidth(void *dev, unsigned *v) { ENTER(dev) *v = num(gpu_of(dev), "pcie_width", 16); return 0; }
API int nvmlDeviceGetMaxPcieLinkWidth(void *dev, unsigned *v) { ENTER(dev) *v = 16; return 0; }
API int nvmlDeviceGetPerformanceState(void *dev, int *v) { ENTER(dev) *v = num(gpu_of(dev), "pstate", 0); return 0; }
typedef struct { unsigned gpu, memory; } utilization_t;
API int nvmlDeviceGetUtilizationRates(void *dev, utilization_t *u) {
  ENTER(dev) UNLESS(!is("mig"), 3)
  u->gpu = num(gpu_of(dev), "utilization", 90);
  u->memory = 40;
  return 0;
}

API int nvmlDeviceGetCurrentClocksEventReasons(void *dev, u64 *v) { ENTER(dev) *v = num(gpu_of(dev), "clocks", 0); return 0; }
API int nvmlDeviceGetTemperature(void *dev, int sensor, unsigned *v) { ENTER(dev) *v = num(gpu_of(dev), "temperature", 45); return 0; }
API int nvmlDeviceGetTemperatureThreshold(void *dev, int which, unsigned *v) {
  static const unsigned limits[] = {92, 89, 95, 85};
  ENTER(dev) UNLESS(which >= 0 && which < 4, 3)
  *v = limits[which];
  return 0;
}
API int nvmlDeviceGetMarginTemperature(void *dev, int *m) {
  ENTER(dev) UNLESS(!is("a100"), 3) UNLESS(m[0] == 0x1000008, 25)
  m[1] = (int)num(gpu_of(dev), "margin", 42);
  return 0;
}
API int nvmlDeviceGetPowerUsage(void *dev, unsigned *v) { ENTER(dev) *v = num(gpu_of(dev), "power_mw", 312500); return 0; }
API int nvmlDeviceGetEnforcedPowerLimit(void *dev, unsigned *v) { ENTER(dev) *v = 700000; return 0; }
