package socket

import "time"

// KeepAliveIdle is how long a connection is idle before the kernel begins to
// probe whether its other end is still there (RFC 9293 section 3.8.4). How often
// it probes, and how many times, are the kernel's defaults.
const KeepAliveIdle = 30 * time.Second
