package socket

import "time"

// Dead peers of idle connections are found after KeepAliveIdle (RFC 9293
// section 3.8.4); what the kernel's defaults may decide is left to it.
const KeepAliveIdle = 30 * time.Second
