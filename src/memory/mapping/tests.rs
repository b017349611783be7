use super::*;

const KINDS: [Kind; 3] = [Kind::Cached, Kind::WriteCombined, Kind::Uncached];

#[test]
fn scalars_are_little_endian_in_memory() {
    for kind in KINDS {
        let m = Mapping::anonymous(32, kind);
        let v = m.view(0, 32);
        v.store_le64(0, 0x0807_0605_0403_0201);
        v.store_le32(8, 0x0403_0201);
        v.store_le16(14, 0x0201);
        let mut b = [0; 16];
        v.copy_to(0, &mut b);
        assert_eq!(b, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 0, 0, 1, 2], "{kind:?}");
        assert_eq!(v.load_le16(2), 0x0403);
        assert_eq!(v.load_le32(4), 0x0807_0605);
        assert_eq!(v.load_le64(8), 0x0201_0000_0403_0201);
    }
}

#[test]
fn copies_of_every_alignment_and_length_touch_only_their_bytes() {
    for kind in KINDS {
        for off in 0..17 {
            for len in 0..40 {
                let m = Mapping::anonymous(64, kind);
                let v = m.view(0, 64);
                let data: Vec<u8> = (1..=len as u8).collect();
                v.copy_from(off, &data);
                let mut all = [0xaa; 64];
                v.copy_to(0, &mut all);
                assert_eq!(&all[off..off + len], &data[..], "{kind:?} {off}+{len}");
                assert!(all[..off].iter().chain(&all[off + len..]).all(|b| *b == 0));
                let mut back = vec![0; len];
                v.copy_to(off, &mut back);
                assert_eq!(back, data);
            }
        }
    }
}

#[test]
fn what_stands_behind_a_copy_is_overwritten_up_to_the_word_s_end_at_most() {
    for kind in KINDS {
        for (off, len) in (0..17).flat_map(|off| (0..33).map(move |len| (off, len))) {
            let m = Mapping::anonymous(64, kind);
            let v = m.view(0, 50);
            m.view(0, 64).copy_from(0, &[0xaa; 64]);
            let data: Vec<u8> = (1..=len as u8).collect();
            v.copy_from_over(off, &data);
            let mut all = [0; 64];
            m.view(0, 64).copy_to(0, &mut all);
            let word_end = (off + len).next_multiple_of(8);
            let over = if kind == Kind::Cached || word_end > 50 { off + len } else { word_end };
            assert_eq!(&all[off..off + len], &data[..], "{kind:?} {off}+{len}");
            assert!(
                all[..off].iter().chain(&all[over..]).all(|b| *b == 0xaa),
                "{kind:?} {off}+{len}"
            );
        }
    }
}

#[test]
fn only_cached_memory_is_lent_to_system_calls() {
    for kind in KINDS {
        let m = Mapping::anonymous(64, kind);
        assert_eq!(m.view(8, 16).io_parts().is_some(), kind == Kind::Cached);
    }
}

#[test]
#[should_panic(expected = "view 60+8")]
fn a_view_beyond_the_end_is_our_bug() {
    let m = Mapping::anonymous(64, Kind::Cached);
    let _ = m.view(60, 8);
}

#[test]
fn whole_copies_between_all_kinds_touch_only_their_bytes() {
    for (from, to) in KINDS.iter().flat_map(|from| KINDS.map(|to| (*from, to))) {
        let (source, target) = (Mapping::anonymous(1024, from), Mapping::anonymous(1024, to));
        let data: Vec<u8> = (0..1024_u32).map(|i| (i % 251) as u8).collect();
        source.view(0, 1024).copy_from(0, &data);
        for len in [0, 1, 7, 64, 255, 256, 257, 300, 999] {
            for (here, there) in [(0, 0), (8, 3), (5, 5), (12, 7), (24, 16)] {
                target.view(0, 1024).zero();
                source.view(here, len).copy_into(&target.view(there, len + 1));
                let mut all = [0; 1024];
                target.view(0, 1024).copy_to(0, &mut all);
                let (before, rest) = all.split_at(there);
                let (copied, behind) = rest.split_at(len);
                assert_eq!(copied, &data[here..here + len], "{from:?} to {to:?}, {len}");
                assert!(before.iter().chain(behind).all(|byte| *byte == 0), "{len} at {there}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "copy of 0+300")]
fn a_whole_copy_to_a_shorter_view_panics() {
    let m = Mapping::anonymous(1024, Kind::Cached);
    m.view(0, 300).copy_into(&m.view(512, 299));
}
