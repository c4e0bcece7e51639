//! Size classes of small blocks: steps of 16 bytes up to 256, then 8 and later 4 classes for each
//! doubling, up to 32 KiB. Every size is a multiple of 16, so every block is aligned for
//! `max_align_t`; classes that are multiples of a power of two serve aligned requests.

/// Largest small block.
pub(super) const MAX_SMALL: usize = 32 * 1024;
/// Number of classes.
pub(super) const COUNT: usize = 52;
/// Bytes of a heap page: the grain of spans.
pub(super) const PAGE: usize = 8192;

/// Block size of each class.
pub(super) static SIZES: [u32; COUNT] = make_sizes();
/// Class of a size up to 1 KiB, by 16-byte steps.
static FINE: [u8; 65] = make_fine();
/// Class of a size up to 32 KiB, by 256-byte steps.
static COARSE: [u8; 129] = make_coarse();

/// The class of a size, `size <= MAX_SMALL`.
#[inline(always)]
pub(super) fn of(size: usize) -> usize {
    if size <= 1024 { FINE[(size + 15) >> 4] as usize } else { COARSE[(size + 255) >> 8] as usize }
}

/// Largest size of [`of_fine`].
pub(super) const FINE_MOST: usize = 1024;

/// The class of a size, `size <= FINE_MOST`: one look.
#[inline(always)]
pub(super) fn of_fine(size: usize) -> usize {
    debug_assert!(size <= FINE_MOST);
    // SAFETY: the table has an entry for each sixteen bytes up to there.
    unsafe { *FINE.get_unchecked((size + 15) >> 4) as usize }
}

/// Block size of a class.
#[inline(always)]
pub(super) fn size(class: usize) -> usize {
    SIZES[class] as usize
}

/// Blocks that move between a thread's cache and the central list at once: 16 KiB worth.
#[inline]
pub(super) fn batch(class: usize) -> u32 {
    BATCH[class] as u32
}
static BATCH: [u8; COUNT] = make_batch();

/// Heap pages of a span of this class: at most an eighth is lost at its end, and at least four
/// blocks fit.
pub(super) fn span_pages(class: usize) -> usize {
    SPAN_PAGES[class] as usize
}
static SPAN_PAGES: [u8; COUNT] = make_span_pages();

const fn make_sizes() -> [u32; COUNT] {
    let mut sizes = [0; COUNT];
    let (mut at, mut size) = (0, 16);
    while at < COUNT {
        sizes[at] = size;
        size += step(size);
        at += 1;
    }
    assert!(sizes[COUNT - 1] as usize == MAX_SMALL);
    sizes
}

const fn step(size: u32) -> u32 {
    match size {
        0..256 => 16,
        256..512 => 32,
        512..1024 => 64,
        _ => (1 << (31 - size.leading_zeros())) / 4,
    }
}

const fn lowest_fit(size: usize) -> u8 {
    let sizes = make_sizes();
    let mut class = 0;
    while (sizes[class] as usize) < size {
        class += 1;
    }
    class as u8
}

const fn make_fine() -> [u8; 65] {
    let mut table = [0; 65];
    let mut at = 0;
    while at < 65 {
        table[at] = lowest_fit(at * 16);
        at += 1;
    }
    table
}

const fn make_coarse() -> [u8; 129] {
    let mut table = [0; 129];
    let mut at = 0;
    while at < 129 {
        table[at] = lowest_fit(at * 256);
        at += 1;
    }
    table
}

const fn make_batch() -> [u8; COUNT] {
    let sizes = make_sizes();
    let mut table = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        let fit = 16 * 1024 / sizes[class];
        table[class] = if fit < 2 {
            2
        } else if fit > 64 {
            64
        } else {
            fit as u8
        };
        class += 1;
    }
    table
}

const fn make_span_pages() -> [u8; COUNT] {
    let sizes = make_sizes();
    let mut table = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        let size = sizes[class] as usize;
        let mut pages = 1;
        while pages * PAGE / size < 4 || pages * PAGE % size > pages * PAGE / 8 {
            pages += 1;
        }
        table[class] = pages as u8;
        class += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_fit_and_grow() {
        for wanted in 0..=MAX_SMALL {
            let class = of(wanted);
            assert!(size(class) >= wanted);
            assert!(class == 0 || size(class - 1) < wanted, "{wanted}");
        }
        for class in 0..COUNT {
            assert_eq!(size(class) % 16, 0);
            assert!(span_pages(class) * PAGE / size(class) >= 4);
        }
    }
}
