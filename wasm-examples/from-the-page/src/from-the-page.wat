;; A scorer that was written with sdk/ABI.md alone. (3) stands for its section 3.
;;
;; Many providers limit the number of simultaneous connections of a proxy. The
;; score is the proxy's success rate times the share of its connections that are
;; free, so it is 0 if all connections are in use. A proxy of weight 2 is assumed
;; to allow twice as many connections.
;;
;;   [plugins.NAME.config]
;;   connections = 10          # of a proxy of weight 1; 10 if not set
(module
  (memory (export "memory") 1)

  ;; reserve must not return address 0 (2), so the module's own data is there.
  (data (i32.const 0) "connections")
  (global $key i32 (i32.const 0))
  (global $key_length i32 (i32.const 11))
  (global $region i32 (i32.const 16)) ;; a multiple of 8 (2)

  (global $connections (mut f64) (f64.const 10))

  (func (export "whirlpool_abi_v1"))

  ;; The region for the host's records is all memory from $region on. Its address
  ;; never changes; only its end does.
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

  ;; The only setting (3, "a pair"; 4) is connections, which must be above 0. The
  ;; status is 1 for any other setting, and 2 for an invalid value.
  (func (export "configure") (param $pair i32) (param $count i32) (result i32)
    (if (i32.eqz (local.get $count)) (then (return (i32.const 0))))
    (if (i32.gt_s (local.get $count) (i32.const 1)) (then (return (i32.const 1))))
    (if (i32.eqz (call $is_key (i32.load (local.get $pair)) (i32.load offset=4 (local.get $pair))))
      (then (return (i32.const 1))))
    (global.set $connections (f64.load offset=16 (local.get $pair)))
    ;; also false for NaN
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

  ;; Scores within 5 % of the best count as equal, so such proxies take turns (1, 4).
  (func (export "tolerance") (result f64) (f64.const 0.05))

  ;; There is at least one candidate. A row has the success rate at offset 0, the
  ;; attempts in flight at 40, and the weight at 48 (3, "a candidate").
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
