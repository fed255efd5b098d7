/*
 * whirlpool.h: a Whirlpool plugin in C or C++, version 1 of the contract in
 * sdk/ABI.md. A plugin is one file that includes this header and defines the
 * functions it wants of those declared here: score, backoff or judge, and any of the
 * optional ones. What it defines is exported; the rest is not there. No libc
 * is needed. Include it in one file only: it defines reserve.
 *
 *   clang --target=wasm32 -ffreestanding -nostdlib -O2 -mbulk-memory \
 *         -Wl,--no-entry -Wl,-z,stack-size=16384 -o plugin.wasm plugin.c
 *
 * In C++ it is clang++, with -fno-exceptions -fno-rtti.
 *
 * On any other target the same file compiles to ordinary functions, so a
 * native test includes the plugin's source and calls them.
 *
 * Times are seconds, rates 0 to 1, flags 0 or 1. Hashes are 53 bits, so that
 * a double holds them exactly. Numbers that count are whole.
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

/* What a scorer is asked to choose for. */
typedef struct {
  double count;       /* candidates that follow, 1 or more */
  double now;         /* s since the Unix epoch */
  double attempt;     /* 0 for a request's first attempt */
  double turn;        /* goes up by one with each first attempt */
  double seed;        /* 53 random bits, fresh for each call; see wp_uniform */
  double host_hash;   /* of the target's host; see wp_hash53 */
  double region_hash; /* of the wanted region; 0 when none is wanted */
  double pool_size;   /* proxies in the pool, candidates or not */
  double idempotent;  /* 1 if the request may be repeated */
  double connect;     /* 1 if the request is a CONNECT */
} wp_rank_request;

/* What a scorer is told of one proxy. */
typedef struct {
  double success_rate;         /* 0..1 over the last 100 attempts; 0.5 without any */
  double samples;              /* attempts behind success_rate, 0..100 */
  double latency_mean;         /* s, over the last 100 attempts */
  double latency_ewma;         /* s, exponentially weighted (alpha 0.1) */
  double normalized_latency;   /* (latency_mean + 10 ms) / (the largest among the
                                  candidates + 10 ms); without a latency 0.5 if it
                                  has no attempts, 1 if none succeeded, else 0 */
  double in_flight;            /* attempts running through it now */
  double weight;               /* configured, > 0, default 1 */
  double cost;                 /* configured, >= 0, default 0 */
  double region_match;         /* 1 if in the wanted region, else 0 */
  double consecutive_failures; /* since its last success */
  double since_use;            /* s since it was last chosen; -1 if never */
  double uses;                 /* times chosen */
  double breaker_state;        /* 0 closed, 1 open, 2 half open */
  double id_hash;              /* of its id, stable across restarts */
  double affinity_hash;        /* of its id and the target's host together */
  double rotation;             /* places from the rotation's turn: 0 is next */
} wp_candidate;

/* What a backoff is told before a retry. */
typedef struct {
  double retry;          /* 1 before the first retry */
  double base_delay;     /* s, policy.base_delay */
  double multiplier;     /* policy.multiplier */
  double cap;            /* s, policy.max_backoff_delay */
  double jitter;         /* 1 if policy.jitter */
  double random;         /* uniform in [0, 1), fresh for each call */
  double previous_delay; /* s waited before the previous retry; 0 before the first */
  double retry_after;    /* s the last answer asked for; 0 when it did not */
  double last_status;    /* of the last answer; 0 when none arrived */
  double elapsed;        /* s since the request began */
  double remaining;      /* s until its total timeout; -1 when it has none */
  double max_attempts;   /* policy.max_attempts */
  double host_hash;      /* as wp_rank_request.host_hash */
  double id_hash;        /* of the proxy that failed last */
  double now;            /* s since the Unix epoch */
} wp_backoff_request;

/* One finished attempt, for a plugin that learns. */
typedef struct {
  double now;       /* s since the Unix epoch */
  double id_hash;   /* as wp_candidate.id_hash */
  double host_hash; /* as wp_rank_request.host_hash */
  double attempt;   /* 0 for the first */
  double success;   /* 1 or 0 */
  double latency;   /* s */
  double status;    /* 0 when no answer arrived */
  double delay;     /* s waited before this attempt */
} wp_observation;

/* A key and its value: one setting of [plugins.NAME.config], or one entry of a
 * proxy's metadata. Texts are UTF-8 and end in a zero byte, which their length
 * does not count. They are the host's: copy what is to outlive the call. */
typedef struct {
  const char *key;
  uint32_t key_length;
  const char *value;
  uint32_t value_length;
  double number; /* the value as a number (true is 1, false 0); NaN if it is none */
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
  double id_hash;        /* of the proxy */
  double content_length; /* of the body, as announced; -1 if that is unknown */
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
  WP_BANNED,      /* the same, and the proxy rests for the target's host */
  WP_TARGET_FAULT /* the response is final, and the target is charged with it */
};

/* What a judge says about a response. It is WP_FINE at the beginning of a call. */
typedef struct {
  double kind; /* WP_FINE and so on */
  double rest; /* s that the proxy rests for the target's host, 0 for 600; with WP_BANNED only */
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
 * What a plugin defines. score makes it a scorer, backoff a backoff, judge a
 * judge; it is one of the three.
 */

/* Sets scores[i] for candidates[i], 0 <= i < count: finite, higher is better.
 * Returns 0; anything else means that no score was given. */
WP_EXPORT(score)
int32_t score(const wp_rank_request *request, const wp_candidate *candidates, double *scores, int32_t count);

/* The seconds to wait before a retry: finite, 0 or more. The gateway cuts it
 * to the policy's cap. */
WP_EXPORT(backoff) double backoff(const wp_backoff_request *request);

/* Rules on a response before it is relayed: sets ruling->kind, and returns 0. */
WP_EXPORT(judge) int32_t judge(const wp_judge_request *request, wp_ruling *ruling);

/* Optional, for a judge: the parts of a response that it gets. A text with a line for
 * each: "body 8192" (bytes of the body's beginning, at most 8192), "field server" (at most 32
 * names of header fields) and, for a judge that rules on these only, "status 403" or
 * "status 500-599". */
WP_EXPORT(judge_wants) const char *judge_wants(void);

/* Optional, once before anything else. */
WP_EXPORT(_initialize) void _initialize(void);

/* Optional: takes the settings of [plugins.NAME.config], sorted by key; those
 * of tables inside it are called TABLE.KEY. Returns 0; to refuse them, what
 * wp_refuse returns. A plugin without configure refuses every setting. */
WP_EXPORT(configure) int32_t configure(const wp_pair *settings, int32_t count);

/* Optional: the pool as it is now, before the first call that follows a change. */
WP_EXPORT(pool_changed) void pool_changed(const wp_proxy *proxies, int32_t count);

/* Optional: learns from an attempt. A plugin that defines it has one instance,
 * whose calls take turns. */
WP_EXPORT(observe) void observe(const wp_observation *observation);

/* Optional: scores within this fraction of the best count as equal, 0..1. */
WP_EXPORT(tolerance) double tolerance(void);

/* Optional, before configure: states the settings, so that the host checks and
 * shows them. A text with a line for each: name, type (number, integer, boolean or
 * text), range ("0..1", "0..", or of a text "fast|slow"), default and one line about
 * it, with tabs between them. Those at the end may be left out. */
WP_EXPORT(describe) const char *describe(void);

/*
 * What every module must export; and the imports, each there if it is used.
 */

#ifdef __wasm__
__attribute__((import_module("wasi_snapshot_preview1"), import_name("fd_write")))
int32_t wp_fd_write(int32_t file, const void *pieces, int32_t count, uint32_t *written);
__attribute__((import_module("whirlpool"), import_name("log")))
void wp_host_log(int32_t level, const char *text, uint32_t length);
__attribute__((import_module("whirlpool"), import_name("metric")))
void wp_host_metric(int32_t kind, const char *name, uint32_t length, double value);

WP_EXPORT(whirlpool_abi_v1) void whirlpool_abi_v1(void) {}

/* Room for the host's records: pages of its own, taken with memory.grow, so
 * that it gets in the way of no allocator. 0 when there is no more memory. */
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

/* Whether two texts that end in a zero byte are the same. */
static inline bool wp_equal(const char *a, const char *b) {
  for (; *a == *b; a++, b++)
    if (*a == 0) return true;
  return false;
}

/* The setting of that key; NULL without one. */
static inline const wp_pair *wp_find(const wp_pair *settings, int32_t count, const char *key) {
  for (int32_t i = 0; i < count; i++)
    if (wp_equal(settings[i].key, key)) return &settings[i];
  return NULL;
}

/* Whether the beginning of a response's body has a text, which is in lower case. The
 * letters of the body may be of any case. */
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

/* Says why: the first line said in a call that fails is in its error. (Without
 * a host nobody hears it.) */
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

/* Writes a log line, of which the host keeps the last 100, and at most 20 a second.
 * The last one of level WP_ERROR in a call that fails is in its error. */
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

/* Adds a finite value that is not negative to a counter of the plugin, on /metrics as
 * whirlpool_plugin_metric{plugin,name}. A name has 1 to 64 letters, digits and _; a
 * plugin has at most 20. */
static inline void wp_count(const char *name, double value) { wp_metric(0, name, value); }

/* Sets a gauge of the plugin to a finite value; for its name see wp_count. */
static inline void wp_gauge(const char *name, double value) { wp_metric(1, name, value); }

/* Ends the call, which fails; the text is in its error, with file and line. */
#define wp_panic(text) (wp_log(WP_ERROR, "panicked at " __FILE__ ":" WP_TEXT(__LINE__) ": " text), __builtin_trap())
#define WP_TEXT(x) WP_TEXT_OF(x)
#define WP_TEXT_OF(x) #x

/* Ends the call unless the condition holds. */
#define wp_assert(condition) ((condition) ? (void)0 : wp_panic(#condition " does not hold"))

/* Refuses a setting and says why, in words such as "it must be 0 to 1". It
 * returns what configure is to return. */
static inline int32_t wp_refuse(const wp_pair *setting, const char *why) {
  wp_say("the setting ");
  wp_say(setting->key);
  wp_say(" is \"");
  wp_say(setting->value);
  wp_say("\"; ");
  wp_say(why);
  return 1;
}

/* The number set for key; fallback when there is none, NaN when it is no
 * number (NaN is in no range, so a check such as !(x >= 0) refuses it). */
static inline double wp_number(const wp_pair *settings, int32_t count, const char *key, double fallback) {
  const wp_pair *p = wp_find(settings, count, key);
  return p ? p->number : fallback;
}

static inline double wp_mix53(uint64_t h) {
  h = (h ^ h >> 33) * 0xff51afd7ed558ccd;
  h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53;
  return (double)((h ^ h >> 33) >> 11);
}

/* The hash behind id_hash (of a proxy's id), host_hash (of a host: lower case,
 * no port) and region_hash: FNV-1a and MurmurHash3's finalizer, 53 bits. */
static inline double wp_hash53(const char *text, uint32_t length) {
  uint64_t h = 0xcbf29ce484222325;
  for (uint32_t i = 0; i < length; i++) h = (h ^ (uint8_t)text[i]) * 0x100000001b3;
  return wp_mix53(h);
}

/* Two hashes made one: affinity_hash is wp_pair53(id_hash, host_hash). */
static inline double wp_pair53(double a, double b) {
  return wp_mix53((uint64_t)a * 0x9e3779b97f4a7c15 + (uint64_t)b);
}

/* Uniform in (0, 1], the same for the same seed and i: give it the request's
 * seed and the candidate's place (SplitMix64). */
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
