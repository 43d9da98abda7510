(module (memory (export "memory") 1) (data (i32.const 8) "\"hello\"")
  (func (export "wambda_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "wambda_handle") (param i32 i32) (result i64) (i64.const 0x0000000800000007)))
