/*
 * whirlpool.h is the SDK for Whirlpool plugins in C and C++, for version 1 of the
 * contract in sdk/ABI.md. A plugin is one file that includes this header. It defines
 * score, backoff or judge, and any of the optional functions declared below. The
 * module exports the functions that the plugin defines. No libc is needed. Include the
 * header in one file only, because it defines the function reserve.
 *
 *   clang --target=wasm32 -ffreestanding -nostdlib -O2 -mbulk-memory \
 *         -Wl,--no-entry -Wl,-z,stack-size=16384 -o plugin.wasm plugin.c
 *
 * A plugin in C++ is built with clang++ and -fno-exceptions -fno-rtti.
 *
 * For any other target the same file compiles to ordinary functions, so a native test
 * can include the plugin's source and call them.
 *
 * Times are seconds, rates 0 to 1, flags 0 or 1. Hashes are 53 bits, so that
 * a double holds them exactly. Counts are whole numbers.
 */
#ifndef WHIRLPOOL_H
#define WHIRLPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define _Static_assert static_assert
#endif

#ifdef __wasm__
#define WP_EXPORT(name) __attribute__((export_name(#name)))
#else
#define WP_EXPORT(name)
#endif

/* The request for which a scorer ranks the candidates. */
typedef struct {
  double count;       /* number of candidates, at least 1 */
  double now;         /* s since the Unix epoch */
  double attempt;     /* 0 for a request's first attempt */
  double turn;        /* a number that increases by one with each first attempt */
  double seed;        /* 53 random bits, new in each call; see wp_uniform */
  double host_hash;   /* hash of the target's host; see wp_hash53 */
  double region_hash; /* hash of the wanted region; without one see sdk/ABI.md */
  double pool_size;   /* number of proxies in the pool, also those that are not candidates */
  double idempotent;  /* 1 if the request may be repeated */
  double connect;     /* 1 if the request is a CONNECT */
} wp_rank_request;

/* One proxy that a scorer may choose. */
typedef struct {
  double success_rate;         /* of the last 100 attempts, 0..1; 0.5 without attempts */
  double samples;              /* number of attempts that success_rate is computed from */
  double latency_mean;         /* mean of the last 100 attempts, s */
  double latency_ewma;         /* exponentially weighted mean, s (alpha 0.1) */
  double normalized_latency;   /* (latency_mean + 10 ms) / (the largest latency_mean of all
                                  candidates + 10 ms); if latency_mean is 0: 0.5 without
                                  attempts, 1 if none has succeeded, else 0 */
  double in_flight;            /* attempts in flight through the proxy */
  double weight;               /* configured, > 0, default 1 */
  double cost;                 /* configured, >= 0, default 0 */
  double region_match;         /* 1 if it is in the wanted region, else 0 */
  double consecutive_failures; /* number since its last success */
  double since_use;            /* s since it was chosen last; -1 if never */
  double uses;                 /* how often it was chosen */
  double breaker_state;        /* 0 closed, 1 open, 2 half-open */
  double id_hash;              /* hash of its id, the same after a restart */
  double affinity_hash;        /* hash of its id and the target's host */
  double rotation;             /* number of proxies before this one in the rotation */
} wp_candidate;

/* The input of a backoff before a retry. */
typedef struct {
  double retry;          /* 1 before the first retry */
  double base_delay;     /* s, policy.base_delay */
  double multiplier;     /* policy.multiplier */
  double cap;            /* s, policy.max_backoff_delay */
  double jitter;         /* 1 if policy.jitter */
  double random;         /* random number, uniform in [0, 1), new in each call */
  double previous_delay; /* wait before the previous retry, s; 0 before the first retry */
  double retry_after;    /* Retry-After of the last response, s; 0 without one */
  double last_status;    /* status of the last response; 0 without a response */
  double elapsed;        /* s since the request began */
  double remaining;      /* s until the request's total timeout; -1 without one */
  double max_attempts;   /* policy.max_attempts */
  double host_hash;      /* as wp_rank_request.host_hash */
  double id_hash;        /* hash of the id of the proxy that failed last */
  double now;            /* s since the Unix epoch */
} wp_backoff_request;

/* A finished attempt, for a plugin that learns. */
typedef struct {
  double now;       /* s since the Unix epoch */
  double id_hash;   /* as wp_candidate.id_hash */
  double host_hash; /* as wp_rank_request.host_hash */
  double attempt;   /* 0 for a request's first attempt */
  double success;   /* 1 if it was a success, otherwise 0 */
  double latency;   /* s */
  double status;    /* 0 without a response */
  double delay;     /* wait before this attempt, s */
} wp_observation;

/* A key and its value: one setting of [plugins.NAME.config], or one entry of a
 * proxy's metadata. Texts are UTF-8 and end with a zero byte, which their length
 * does not include. The host owns them: copy what you need after the call. */
typedef struct {
  const char *key;
  uint32_t key_length;
  const char *value;
  uint32_t value_length;
  double number; /* the value as a number (true is 1, false 0); NaN if it is not a number */
} wp_pair;

/* A response of a target, for a judge. Header fields are those that judge_wants names, in
 * the order of the response, with their names in lower case. */
typedef struct {
  double now;            /* s since the Unix epoch */
  double attempt;        /* 0 for a request's first attempt */
  double attempts_left;  /* attempts that may follow this one; 0 if the request may not be repeated */
  double status;
  double latency;        /* s until the response's head */
  double host_hash;      /* as wp_rank_request.host_hash */
  double id_hash;        /* hash of the proxy's id */
  double content_length; /* length of the body that the head states; -1 if unknown */
  double encoded;        /* 1 if the body has a content coding other than gzip, and is not decoded */
  double whole;          /* 1 if the body's beginning is the whole body */
  const wp_pair *fields;
  uint32_t field_count;
  const char *body; /* the body's beginning; a zero byte follows it */
  uint32_t body_length;
} wp_judge_request;

/* The kinds of rulings. */
enum {
  WP_FINE,        /* the policy decides as without a judge */
  WP_RETRY,       /* a retry, as after a status in retry_status_codes */
  WP_OTHER_PROXY, /* a retry at once, through another proxy */
  WP_BANNED,      /* like WP_OTHER_PROXY, and the proxy is banned for the target's host */
  WP_TARGET_FAULT /* the response is final, and the target is charged with it */
};

/* A judge's ruling on a response. At the beginning of a call it is WP_FINE. */
typedef struct {
  double kind; /* WP_FINE and so on */
  double rest; /* s that the proxy is banned for the target's host; 0 stands for 600; only with WP_BANNED */
} wp_ruling;

/* One proxy of the pool. */
typedef struct {
  double id_hash;     /* as wp_candidate.id_hash */
  double region_hash; /* as wp_rank_request.region_hash; 0 without a region */
  double weight;
  double cost;
  const char *id; /* texts as in wp_pair */
  uint32_t id_length;
  const char *region;
  uint32_t region_length;
  const wp_pair *metadata; /* sorted by key */
  uint32_t metadata_count;
} wp_proxy;

#ifdef __wasm__
_Static_assert(sizeof(wp_rank_request) == 80, "wp_rank_request");
_Static_assert(sizeof(wp_candidate) == 128, "wp_candidate");
_Static_assert(offsetof(wp_candidate, rotation) == 120, "wp_candidate.rotation");
_Static_assert(sizeof(wp_backoff_request) == 120, "wp_backoff_request");
_Static_assert(sizeof(wp_observation) == 64, "wp_observation");
_Static_assert(sizeof(wp_judge_request) == 96, "wp_judge_request");
_Static_assert(offsetof(wp_judge_request, fields) == 80 && offsetof(wp_judge_request, body) == 88, "wp_judge_request");
_Static_assert(sizeof(wp_ruling) == 16, "wp_ruling");
_Static_assert(sizeof(wp_pair) == 24, "wp_pair");
_Static_assert(offsetof(wp_pair, value) == 8 && offsetof(wp_pair, number) == 16, "wp_pair");
_Static_assert(sizeof(wp_proxy) == 56, "wp_proxy");
_Static_assert(offsetof(wp_proxy, id) == 32 && offsetof(wp_proxy, metadata) == 48, "wp_proxy");
#endif

/*
 * The functions that a plugin defines: one of score, backoff and judge, which
 * determines its kind, and any of the optional ones.
 */

/* Sets scores[i] to the score of candidates[i], for 0 <= i < count. Scores are finite; a
 * higher score is better. It returns 0. Any other result means that the call failed. */
WP_EXPORT(score)
int32_t score(const wp_rank_request *request, const wp_candidate *candidates, double *scores, int32_t count);

/* Returns the wait before a retry in seconds: finite and at least 0. The gateway limits
 * it to the policy's cap. */
WP_EXPORT(backoff) double backoff(const wp_backoff_request *request);

/* Rules on a response before it is relayed. It sets ruling->kind, and returns 0. */
WP_EXPORT(judge) int32_t judge(const wp_judge_request *request, wp_ruling *ruling);

/* Optional, for a judge: returns the parts of a response that the judge gets. The text has
 * a line for each part: "body 8192" (number of bytes of the body's beginning, at most 8192)
 * or "field server" (a header field, at most 32). With "status 403" or "status 500-599" the
 * judge rules only on responses with these statuses. */
WP_EXPORT(judge_wants) const char *judge_wants(void);

/* Optional: is called once, before all other functions. */
WP_EXPORT(_initialize) void _initialize(void);

/* Optional: receives the settings of [plugins.NAME.config], sorted by key. A setting in a
 * nested table has the key TABLE.KEY. configure returns 0. To refuse a setting, it returns the
 * result of wp_refuse. A plugin without configure has no settings, and the host refuses any. */
WP_EXPORT(configure) int32_t configure(const wp_pair *settings, int32_t count);

/* Optional: receives the proxies of the pool, before the first call and before the next call
 * after a change of the pool. */
WP_EXPORT(pool_changed) void pool_changed(const wp_proxy *proxies, int32_t count);

/* Optional: receives a finished attempt. A plugin that defines it has one instance, and its
 * calls run one after the other. */
WP_EXPORT(observe) void observe(const wp_observation *observation);

/* Optional: returns a fraction, 0 to 1. Scores within this fraction of the best score count
 * as equal. */
WP_EXPORT(tolerance) double tolerance(void);

/* Optional, is called before configure: declares the settings, so that the host can check
 * and show them. The text has a line for each setting. A line consists of name, type (number,
 * integer, boolean or text), range ("0..1", "0..", or for a text "fast|slow"), default and
 * description, separated by tabs. The last ones may be missing. */
WP_EXPORT(describe) const char *describe(void);

/*
 * The exports that every module must have, and the imports. The module has only those
 * imports that the plugin uses.
 */

#ifdef __wasm__
__attribute__((import_module("wasi_snapshot_preview1"), import_name("fd_write")))
int32_t wp_fd_write(int32_t file, const void *pieces, int32_t count, uint32_t *written);
__attribute__((import_module("whirlpool"), import_name("log")))
void wp_host_log(int32_t level, const char *text, uint32_t length);
__attribute__((import_module("whirlpool"), import_name("metric")))
void wp_host_metric(int32_t kind, const char *name, uint32_t length, double value);

WP_EXPORT(whirlpool_abi_v1) void whirlpool_abi_v1(void) {}

/* Returns the address of a region for the host's records, or 0 if the memory cannot grow
 * enough. The region consists of new pages (memory.grow), so it disturbs no allocator. */
WP_EXPORT(reserve) uint32_t reserve(uint32_t bytes) {
  static uint32_t base, room;
  if (bytes > room) {
    uint64_t end = (uint64_t)__builtin_wasm_memory_size(0) << 16;
    uint64_t start = base + (uint64_t)room == end ? base : end;
    uint64_t pages = (start + bytes - end + 0xffff) >> 16;
    if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) return 0;
    base = (uint32_t)start;
    room = (uint32_t)(end + (pages << 16) - start);
  }
  return base;
}
#endif

/*
 * Helpers.
 */

/* Reports whether two texts that end with a zero byte are equal. */
static inline bool wp_equal(const char *a, const char *b) {
  for (; *a == *b; a++, b++)
    if (*a == 0) return true;
  return false;
}

/* Returns the setting with a key, or NULL. */
static inline const wp_pair *wp_find(const wp_pair *settings, int32_t count, const char *key) {
  for (int32_t i = 0; i < count; i++)
    if (wp_equal(settings[i].key, key)) return &settings[i];
  return NULL;
}

/* Reports whether the beginning of a response's body contains the text lower, which must be in
 * lower case. It ignores the case of the body's letters. */
static inline bool wp_body_has(const wp_judge_request *request, const char *lower) {
  for (uint32_t i = 0; i < request->body_length; i++) {
    uint32_t n = 0;
    while (lower[n] != 0 && i + n < request->body_length) {
      char c = request->body[i + n];
      if (c >= 'A' && c <= 'Z') c = (char)(c | 0x20);
      if (c != lower[n]) break;
      n++;
    }
    if (lower[n] == 0) return true;
  }
  return false;
}

/* Writes a text to the standard error. If the call fails, its error contains the first line
 * that was written there. In a native build, wp_say does nothing. */
static inline void wp_say(const char *text) {
#ifdef __wasm__
  uint32_t length = 0, written;
  while (text[length] != 0) length++;
  struct {
    const char *text;
    uint32_t length;
  } piece = {text, length};
  wp_fd_write(2, &piece, 1, &written);
#else
  (void)text;
#endif
}

static inline uint32_t wp_length(const char *text) {
  uint32_t length = 0;
  while (text[length] != 0) length++;
  return length;
}

/* The levels of log lines. */
enum { WP_DEBUG, WP_INFO, WP_WARN, WP_ERROR };

/* Writes a log line. The host keeps the last 100 lines of a plugin, and at most 20 lines a
 * second. If the call fails, its error contains the last line of level WP_ERROR. */
static inline void wp_log(int32_t level, const char *text) {
#ifdef __wasm__
  wp_host_log(level, text, wp_length(text));
#else
  (void)level, (void)text;
#endif
}

static inline void wp_metric(int32_t kind, const char *name, double value) {
#ifdef __wasm__
  wp_host_metric(kind, name, wp_length(name), value);
#else
  (void)kind, (void)name, (void)value;
#endif
}

/* Adds a value to a counter of the plugin. The value must be finite and not negative.
 * /metrics shows the counter as whirlpool_plugin_metric{plugin,name}. A name has 1 to 64
 * letters, digits and underscores. A plugin has at most 20 metrics. */
static inline void wp_count(const char *name, double value) { wp_metric(0, name, value); }

/* Sets a gauge of the plugin to a finite value. wp_count describes the names. */
static inline void wp_gauge(const char *name, double value) { wp_metric(1, name, value); }

/* Ends the call with an error that contains the text, the file and the line. */
#define wp_panic(text) (wp_log(WP_ERROR, "panicked at " __FILE__ ":" WP_TEXT(__LINE__) ": " text), __builtin_trap())
#define WP_TEXT(x) WP_TEXT_OF(x)
#define WP_TEXT_OF(x) #x

/* Ends the call with an error if the condition is false. */
#define wp_assert(condition) ((condition) ? (void)0 : wp_panic(#condition " does not hold"))

/* Refuses a setting. The text why completes the error, for example "it must be 0 to 1". configure
 * must return the result of wp_refuse. */
static inline int32_t wp_refuse(const wp_pair *setting, const char *why) {
  wp_say("the setting ");
  wp_say(setting->key);
  wp_say(" is \"");
  wp_say(setting->value);
  wp_say("\"; ");
  wp_say(why);
  return 1;
}

/* Returns the value of a setting as a number: fallback if the key is not set, and NaN if the
 * value is not a number. Write a check of the range as !(x >= 0), which is also true for NaN. */
static inline double wp_number(const wp_pair *settings, int32_t count, const char *key, double fallback) {
  const wp_pair *p = wp_find(settings, count, key);
  return p ? p->number : fallback;
}

static inline double wp_mix53(uint64_t h) {
  h = (h ^ h >> 33) * 0xff51afd7ed558ccd;
  h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53;
  return (double)((h ^ h >> 33) >> 11);
}

/* Returns the 53-bit hash of a text: id_hash is the hash of a proxy's id, host_hash of a host
 * (in lower case, without the port), region_hash of a region (in lower case). The hash is FNV-1a
 * with the finalizer of MurmurHash3. */
static inline double wp_hash53(const char *text, uint32_t length) {
  uint64_t h = 0xcbf29ce484222325;
  for (uint32_t i = 0; i < length; i++) h = (h ^ (uint8_t)text[i]) * 0x100000001b3;
  return wp_mix53(h);
}

/* Combines two hashes into one: affinity_hash is wp_pair53(id_hash, host_hash). */
static inline double wp_pair53(double a, double b) {
  return wp_mix53((uint64_t)a * 0x9e3779b97f4a7c15 + (uint64_t)b);
}

/* Returns a random number in (0, 1], uniformly distributed. The same seed and i give the same
 * number: pass the request's seed and the candidate's index (SplitMix64). */
static inline double wp_uniform(double seed, int32_t i) {
  uint64_t z;
  __builtin_memcpy(&z, &seed, sizeof z);
  z += (uint64_t)(i + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return (double)(((z ^ z >> 31) >> 11) + 1) * (1.0 / 9007199254740992.0);
}

#ifdef __cplusplus
#undef _Static_assert
}
#endif

#endif
