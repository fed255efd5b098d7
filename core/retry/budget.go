package retry

import (
	"sync"
	"time"
)

// BudgetConfig bounds retries to a fraction of requests.
type BudgetConfig struct {
	Ratio        float64 // retries per request, 0 to 1; 0 for no budget
	MinPerSecond float64 // retries allowed in any case
}

// Budget is Finagle's RetryBudget (https://twitter.github.io/finagle/guide/Clients.html#retries):
// each request deposits Ratio, each retry withdraws 1, a deposit is forgotten
// after ten seconds, and MinPerSecond retries a second are allowed in addition. It
// is safe for concurrent use. Where there is no Budget (nil) there is no limit.
type Budget struct {
	cfg   BudgetConfig
	start time.Time

	mu       sync.Mutex
	second   int64 // of the newest slot, since start
	deposits [budgetSeconds]float64
	spent    [budgetSeconds]float64
}

const budgetSeconds = 10

// NewBudget returns a budget that counts seconds from start, or nil if
// cfg.Ratio is 0.
func NewBudget(cfg BudgetConfig, start time.Time) *Budget {
	if cfg.Ratio <= 0 {
		return nil
	}
	return &Budget{cfg: cfg, start: start}
}

// slot moves on to the second of now and returns its place. Requires mu.
func (b *Budget) slot(now time.Time) int64 {
	second := int64(now.Sub(b.start) / time.Second)
	for b.second < second {
		b.second++
		if second-b.second < budgetSeconds {
			b.deposits[b.second%budgetSeconds], b.spent[b.second%budgetSeconds] = 0, 0
		}
	}
	return b.second % budgetSeconds
}

// Deposit counts one request that begins now.
func (b *Budget) Deposit(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deposits[b.slot(now)] += b.cfg.Ratio
}

// TryWithdraw takes one retry out, if the budget has it.
func (b *Budget) TryWithdraw(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.slot(now)
	balance := b.cfg.MinPerSecond * budgetSeconds
	for j := range b.deposits {
		balance += b.deposits[j] - b.spent[j]
	}
	if balance < 1 {
		return false
	}
	b.spent[i]++
	return true
}
