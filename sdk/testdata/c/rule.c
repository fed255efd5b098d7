/* A judge that uses every field. */
#include "../../c/whirlpool.h"

const char *judge_wants(void) { return "body 100\nfield x\nfield server\nstatus 200-599"; }

int32_t judge(const wp_judge_request *r, wp_ruling *ruling) {
  if (r->status == 404) {
    ruling->kind = WP_TARGET_FAULT;
    return 0;
  }
  double number = wp_number(r->fields, (int32_t)r->field_count, "x", 0);
  if (number != number) number = 0;
  ruling->kind = WP_BANNED;
  ruling->rest = r->now + 2 * r->attempt + 3 * r->attempts_left + 4 * r->status + 5 * r->latency + 6 * r->host_hash +
                 7 * r->id_hash + 8 * r->content_length + 9 * r->encoded + 10 * r->whole + 11 * r->field_count +
                 12 * r->body_length + 13 * number +
                 14 * wp_body_has(r, "captcha");
  return 0;
}
