/* This judge recognizes two cases from the body of a response. A 200 with an empty HTML page comes from a
   broken proxy or cache, so another proxy is tried. A 503 whose page contains "maintenance" comes from the
   target, so no retry would help. */
#include "whirlpool.h"

const char *judge_wants(void) { return "body 2048\nfield content-type\nstatus 200\nstatus 503"; }

static bool is_html(const wp_judge_request *r) {
  const wp_pair *type = wp_find(r->fields, (int32_t)r->field_count, "content-type");
  static const char html[] = "text/html";
  if (!type || type->value_length < sizeof html - 1) return false;
  for (uint32_t i = 0; i < sizeof html - 1; i++)
    if (type->value[i] != html[i]) return false;
  return true;
}

int32_t judge(const wp_judge_request *request, wp_ruling *ruling) {
  if (request->status == 200 && request->whole && request->body_length == 0 && is_html(request))
    ruling->kind = WP_OTHER_PROXY;
  if (request->status == 503 && wp_body_has(request, "maintenance")) ruling->kind = WP_TARGET_FAULT;
  return 0;
}
