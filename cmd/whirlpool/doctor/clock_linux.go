package doctor

import "syscall"

// unsynced is STA_UNSYNC of adjtimex(2).
const unsynced = 0x40

// clockSynced reports whether the clock of the kernel is synchronized. The second result is false if the kernel does
// not report this.
func clockSynced() (synced, known bool) {
	var t syscall.Timex
	if _, err := syscall.Adjtimex(&t); err != nil {
		return false, false
	}
	return t.Status&unsynced == 0, true
}
