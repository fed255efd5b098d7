;; A scorer written from sdk/ABI.md and nothing else; (3) is its section 3.
;;
;; Many providers let a proxy carry so many connections at a time and no more.
;; The score is the proxy's success rate times the share of its connections
;; that are free: it falls evenly as the proxy fills up, to 0 when it is full.
;; A proxy of weight 2 is taken to allow twice as many.
;;
;;   [plugins.NAME.config]
;;   connections = 10          # of a proxy of weight 1; 10 if not set
(module
  (memory (export "memory") 1)

  ;; Address 0 must not be given away (2), so what is ours stands there.
  (data (i32.const 0) "connections")
  (global $key i32 (i32.const 0))
  (global $key_length i32 (i32.const 11))
  (global $region i32 (i32.const 16)) ;; a multiple of 8 (2)

  (global $connections (mut f64) (f64.const 10))

  (func (export "whirlpool_abi_v1"))

  ;; The region for the host's records: all memory from $region on, so it is
  ;; always the same address, and only the end moves.
  (func (export "reserve") (param $bytes i32) (result i32)
    (local $missing i32) ;; pages of 64 KiB
    (local.set $missing
      (i32.sub
        (i32.shr_u (i32.add (i32.add (global.get $region) (local.get $bytes)) (i32.const 0xffff)) (i32.const 16))
        (memory.size)))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then
        (if (i32.eq (memory.grow (local.get $missing)) (i32.const -1))
          (then (return (i32.const 0))))))
    (global.get $region))

  ;; Settings (3, "a pair"; 4): one, called connections, above 0. Any other is
  ;; refused with status 1, a value that is none with status 2.
  (func (export "configure") (param $pair i32) (param $count i32) (result i32)
    (if (i32.eqz (local.get $count)) (then (return (i32.const 0))))
    (if (i32.gt_s (local.get $count) (i32.const 1)) (then (return (i32.const 1))))
    (if (i32.eqz (call $is_key (i32.load (local.get $pair)) (i32.load offset=4 (local.get $pair))))
      (then (return (i32.const 1))))
    (global.set $connections (f64.load offset=16 (local.get $pair)))
    ;; false for NaN, too
    (if (i32.eqz (f64.gt (global.get $connections) (f64.const 0))) (then (return (i32.const 2))))
    (i32.const 0))

  (func $is_key (param $text i32) (param $length i32) (result i32)
    (local $i i32)
    (if (i32.ne (local.get $length) (global.get $key_length)) (then (return (i32.const 0))))
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $text) (local.get $i)))
            (i32.load8_u (i32.add (global.get $key) (local.get $i))))
        (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $length))))
    (i32.const 1))

  ;; Scores within 5 % of the best count as equal, and take turns (1, 4).
  (func (export "tolerance") (result f64) (f64.const 0.05))

  ;; There is at least one candidate. At 0 of a row is its success rate, at 40
  ;; the attempts in flight, at 48 its weight (3, "a candidate").
  (func (export "score") (param $request i32) (param $row i32) (param $score i32) (param $count i32) (result i32)
    (loop $next
      (f64.store (local.get $score)
        (f64.mul
          (f64.load (local.get $row))
          (f64.max
            (f64.const 0)
            (f64.sub
              (f64.const 1)
              (f64.div
                (f64.load offset=40 (local.get $row))
                (f64.mul (global.get $connections) (f64.load offset=48 (local.get $row))))))))
      (local.set $row (i32.add (local.get $row) (i32.const 128)))
      (local.set $score (i32.add (local.get $score) (i32.const 8)))
      (br_if $next (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
    (i32.const 0)))
