/* A backoff that uses every field, as everything.c does. */
#include "../../c/whirlpool.h"

double backoff(const wp_backoff_request *r) {
  return r->retry + 2 * r->base_delay + 3 * r->multiplier + 4 * r->cap + 5 * r->jitter + 6 * r->random +
         7 * r->previous_delay + 8 * r->retry_after + 9 * r->last_status + 10 * r->elapsed + 11 * r->remaining +
         12 * r->max_attempts + 13 * r->host_hash + 14 * r->id_hash + 15 * r->now;
}
