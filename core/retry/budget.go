package retry

import (
	"sync"
	"time"
)

// BudgetConfig limits retries to a fraction of the requests.
type BudgetConfig struct {
	Ratio        float64 // retries per request, 0 to 1; 0 for no budget
	MinPerSecond float64 // retries per second that are always allowed
}

// Budget implements Finagle's RetryBudget (https://twitter.github.io/finagle/guide/Clients.html#retries): each
// request deposits Ratio, each retry withdraws 1, and a deposit expires after ten seconds. MinPerSecond
// retries per second are allowed in addition. A Budget is safe for concurrent use. A nil Budget means no
// limit.
type Budget struct {
	cfg   BudgetConfig
	start time.Time

	mu       sync.Mutex // guards the fields below
	second   int64      // the newest slot, in seconds since start
	deposits [budgetSeconds]float64
	spent    [budgetSeconds]float64
}

// budgetSeconds is the lifetime of a deposit.
const budgetSeconds = 10

// NewBudget returns a Budget whose clock begins at start. It returns nil if cfg.Ratio is 0.
func NewBudget(cfg BudgetConfig, start time.Time) *Budget {
	if cfg.Ratio <= 0 {
		return nil
	}
	return &Budget{cfg: cfg, start: start}
}

// slot advances the budget to the current second, and returns the index of this second. The caller holds mu.
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

// Deposit records a request.
func (b *Budget) Deposit(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deposits[b.slot(now)] += b.cfg.Ratio
}

// TryWithdraw withdraws one retry. It returns false if the budget is spent.
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
