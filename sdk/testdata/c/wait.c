/* A backoff that uses every field, as everything.c does. It also writes log lines and
 * declares settings. */
#include "../../c/whirlpool.h"

const char *describe(void) {
  return "margin\tnumber\t0..1\t0.25\thow near is equal\n"
         "steps\tinteger\t1..9\t3\n"
         "eager\tboolean\t\ttrue\n"
         "mode\ttext\tfast|slow\tfast\n";
}

double backoff(const wp_backoff_request *r) {
  if (r->retry == -1) {
    wp_say("to the standard error");
    wp_log(WP_INFO, "waiting");
    wp_count("waits_total", 2);
    wp_gauge("level", 0.5);
  }
  if (r->retry == -2) wp_panic("no spoon");
  return r->retry + 2 * r->base_delay + 3 * r->multiplier + 4 * r->cap + 5 * r->jitter + 6 * r->random +
         7 * r->previous_delay + 8 * r->retry_after + 9 * r->last_status + 10 * r->elapsed + 11 * r->remaining +
         12 * r->max_attempts + 13 * r->host_hash + 14 * r->id_hash + 15 * r->now;
}
