//! Leaves nothing of a private key on the stack.
//!
//! Values that hold a private key are zeroized when they are dropped, but the arithmetic of P-256
//! spills parts of the scalar to the stack as it goes, and a value that is moved leaves its old place
//! as it was. No destructor knows of those places, and the next call may not reach them for hours. So
//! each operation on a private key runs in a call of its own, and the stack below is overwritten
//! when it is done.

use std::hint::black_box;

use zeroize::Zeroize as _;

/// How deep the stack is overwritten: some times what the deepest of these operations takes, in a
/// build without optimisation as well.
const DEPTH: usize = 64 * 1024;

/// What `work` returns, once its stack has been overwritten. The private key in it, if any, must be
/// behind a pointer: what is returned by value is not cleaned.
pub(super) fn scrubbed<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    scrub();
    result
}

/// Never inlined, so that all that `work` leaves lies below the caller's frame, where `scrub` goes.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
#[expect(clippy::large_stack_arrays, reason = "the stack is what is to be overwritten")]
fn scrub() {
    // Writes that the compiler must not leave out, though nobody reads them. As a slice it is one
    // run of them; an array is zeroized element by element, in some 100,000 instructions.
    let mut stack = [0_u8; DEPTH];
    stack.as_mut_slice().zeroize();
    black_box(&stack);
}
