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
