//! An LZ4 block, decoded one sequence at a time.

/// The decoded bytes, at most `max`. None if it is no LZ4 block or longer.
pub fn decode(stored: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::new();
    let mut input = stored.iter().copied();
    loop {
        let token = input.next()?;
        for _ in 0..length(token >> 4, &mut input)? {
            out.push(input.next()?);
            if out.len() > max {
                return None;
            }
        }
        // The last sequence has literals only.
        let Some(low) = input.next() else { return Some(out) };
        let distance = usize::from(low) | usize::from(input.next()?) << 8;
        let start = out.len().checked_sub(distance).filter(|_| distance > 0)?;
        let count = length(token & 15, &mut input)? + 4;
        if count > max - out.len() {
            return None;
        }
        for at in start..start + count {
            out.push(out[at]);
        }
    }
}

fn length(nibble: u8, input: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let more = input.next()?;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}
