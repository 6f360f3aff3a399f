pub const MAX_FRAME_LEN: u32 = 1 << 20;
