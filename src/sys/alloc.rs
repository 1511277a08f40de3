//! The allocator: memory is handed out from large blocks and never given back.
//!
//! corten lives for milliseconds and parses one configuration; musl's malloc made that parse twice as slow. The one
//! case in which a process lives long, `run` in the foreground, allocates nothing while it waits.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;

/// The size of a block, of which only what is used takes memory; larger requests go to the system's allocator.
const BLOCK: usize = 1 << 20;

struct Bump(UnsafeCell<(usize, usize)>);

// SAFETY: corten starts no threads (rule R25), and the test harness, which does, uses the system's allocator.
unsafe impl Sync for Bump {}

// SAFETY: `alloc` returns disjoint, aligned pieces of live mappings; nothing is ever reused.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: single-threaded, and no reference into the cell outlives this function.
        let (next, end) = unsafe { &mut *self.0.get() };
        let start = next.next_multiple_of(layout.align());
        if *next != 0 && start + layout.size() <= *end {
            *next = start + layout.size();
            return start as *mut u8;
        }
        if layout.size() > BLOCK / 4 {
            // SAFETY: the caller's layout is passed on as it is.
            return unsafe { System.alloc(layout) };
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let block = unsafe { libc::mmap(std::ptr::null_mut(), BLOCK, protection, flags, -1, 0) };
        if block == libc::MAP_FAILED {
            return std::ptr::null_mut();
        }
        *next = block as usize + layout.size();
        *end = block as usize + BLOCK;
        block.cast()
    }

    unsafe fn dealloc(&self, _pointer: *mut u8, _layout: Layout) {}

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let (next, end) = unsafe { &mut *self.0.get() };
        // The last piece handed out can grow where it is, which is how strings and vectors are built.
        if pointer as usize + layout.size() == *next && pointer as usize + new_size <= *end {
            *next = pointer as usize + new_size;
            return pointer;
        }
        if new_size <= layout.size() {
            return pointer;
        }
        // SAFETY: the new layout has the alignment of the old one; both pieces hold at least `layout.size()` bytes and
        // do not overlap.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(pointer, new, layout.size());
            }
            new
        }
    }
}

#[global_allocator]
static ALLOCATOR: Bump = Bump(UnsafeCell::new((0, 0)));
