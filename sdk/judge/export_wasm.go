package judge

import (
	"unsafe"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/internal/guest"
)

// response is reused for every call.
var response Response

//go:wasmexport judge
func judge(request, ruling unsafe.Pointer) uint32 {
	if plugin == nil {
		panic("no judge: call judge.Register from an init function")
	}
	q := (*abi.JudgeRequest)(request)
	response = Response{
		Now: q.Now, Attempt: q.Attempt, AttemptsLeft: q.AttemptsLeft, Status: q.Status, Latency: q.Latency,
		HostHash: q.HostHash, IDHash: q.IDHash, ContentLength: q.ContentLength, Encoded: q.Encoded != 0,
		Whole: q.Whole != 0, Fields: response.Fields[:0], Body: guest.Records[byte](q.Body, q.BodyLength),
	}
	for _, p := range guest.Records[abi.Pair](q.Fields, q.FieldCount) {
		name := guest.Records[byte](p.Key, p.KeyLength)
		response.Fields = append(response.Fields, Field{
			Name:  unsafe.String(unsafe.SliceData(name), len(name)),
			Value: guest.Records[byte](p.Value, p.ValueLength),
		})
	}
	got := plugin.Judge(&response)
	*(*abi.Ruling)(ruling) = abi.Ruling{Kind: float64(got.Kind), Rest: got.Rest}
	return abi.StatusOK
}

var wants []byte

//go:wasmexport judge_wants
func judgeWants() unsafe.Pointer {
	wants = wanted()
	return unsafe.Pointer(unsafe.SliceData(wants))
}
