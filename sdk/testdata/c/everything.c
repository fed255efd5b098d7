/* A scorer that uses every hook and every field, for the tests of the SDK. Each
 * score is a sum: of each field times its index in its record. */
#include "../../c/whirlpool.h"

static double near = 0.25, seen, pool;

int32_t configure(const wp_pair *settings, int32_t count) {
  for (int32_t i = 0; i < count; i++)
    if (!wp_equal(settings[i].key, "near")) return wp_refuse(&settings[i], "there is near");
  near = wp_number(settings, count, "near", near);
  if (!(near >= 0 && near <= 1)) return wp_refuse(wp_find(settings, count, "near"), "it must be 0 to 1");
  return 0;
}

double tolerance(void) { return near; }

void pool_changed(const wp_proxy *proxies, int32_t count) {
  pool = 0;
  for (int32_t i = 0; i < count; i++) {
    const wp_proxy *p = &proxies[i];
    pool += p->id_hash + 2 * p->region_hash + 3 * p->weight + 4 * p->cost + 5 * p->id_length + 6 * p->region_length;
    pool += 7 * wp_number(p->metadata, p->metadata_count, "rank", 1);
    if (wp_equal(p->id, "second") && wp_equal(p->region, "eu")) pool += 8;
  }
}

void observe(const wp_observation *o) {
  seen = o->now + 2 * o->id_hash + 3 * o->host_hash + 4 * o->attempt + 5 * o->success + 6 * o->latency +
         7 * o->status + 8 * o->delay;
}

int32_t score(const wp_rank_request *r, const wp_candidate *candidates, double *scores, int32_t count) {
  double request = r->count + 2 * r->now + 3 * r->attempt + 4 * r->turn + 5 * r->seed + 6 * r->host_hash +
                   7 * r->region_hash + 8 * r->pool_size + 9 * r->idempotent + 10 * r->connect;
  double hashes = wp_hash53("example.com", 11) + wp_pair53(wp_hash53("a", 1), r->host_hash);
  for (int32_t i = 0; i < count; i++) {
    const wp_candidate *c = &candidates[i];
    scores[i] = request + seen + pool + hashes + wp_uniform(r->seed, i) + c->success_rate + 2 * c->samples +
                3 * c->latency_mean + 4 * c->latency_ewma + 5 * c->normalized_latency + 6 * c->in_flight +
                7 * c->weight + 8 * c->cost + 9 * c->region_match + 10 * c->consecutive_failures +
                11 * c->since_use + 12 * c->uses + 13 * c->breaker_state + 14 * c->id_hash +
                15 * c->affinity_hash + 16 * c->rotation;
  }
  return 0;
}
