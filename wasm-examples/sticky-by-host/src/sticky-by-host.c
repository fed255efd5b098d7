/* This scorer chooses the same proxy for a host each time. It uses rendezvous hashing, or "highest random
   weight" (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998). Each proxy has
   a fixed random number for each host, and the proxy with the highest number is chosen. If a proxy is
   removed, only its hosts move, each to the proxy with the second highest number. They move back if the
   proxy returns.

   With u uniform in (0, 1], the probability that a proxy has the largest ln(u) / weight is in proportion to
   its weight. So a proxy of weight 2 has twice the hosts. */
#include "whirlpool.h"

/* Returns the natural logarithm of a normal x > 0. Let x = m * 2^e with m in [sqrt(1/2), sqrt(2)), and s =
   (m-1)/(m+1). Then ln m = 2 atanh(s) and |s| < 0.172. Ten terms of the series of atanh are exact within
   one unit in the last place. */
static double ln(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits += 0x00095f619980c437; /* 1 - sqrt(1/2), as bits of the fraction */
  int e = (int)(bits >> 52) - 1023;
  bits = (bits & 0x000fffffffffffff) + 0x3fe6a09e667f3bc9;
  double m;
  __builtin_memcpy(&m, &bits, sizeof m);
  double s = (m - 1) / (m + 1), q = s * s, sum = 0;
  for (double k = 19; k >= 1; k -= 2) sum = sum * q + 1 / k;
  return 2 * s * sum + e * 0.6931471805599453;
}

int32_t score(const wp_rank_request *request, const wp_candidate *candidates, double *scores, int32_t count) {
  (void)request; /* affinity_hash includes the host */
  for (int32_t i = 0; i < count; i++) {
    double u = (candidates[i].affinity_hash + 1) * 0x1p-53;
    scores[i] = ln(u) / candidates[i].weight;
  }
  return 0;
}
