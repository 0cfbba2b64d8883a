; Factors a number by bit vectors: simplifier, bit-blaster and SAT solver.
(set-logic ALL)
(declare-const a (_ BitVec 22))
(declare-const b (_ BitVec 22))
(assert (= (bvmul ((_ zero_extend 22) a) ((_ zero_extend 22) b)) ((_ zero_extend 22) #b1001101001110001010111)))
(assert (bvugt a #b0000000000000000000001))
(assert (bvugt b #b0000000000000000000001))
(check-sat)
