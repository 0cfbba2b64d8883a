// SPDX-License-Identifier: Apache-2.0
// The notes of the probes, for shared objects. Tracers find out by .stapsdt.base how far the code
// has moved since it was linked; nothing else refers to that section, so it is retained ("R").
#if defined(__x86_64__)
#    define ONE   "8@%rdi"
#    define TWO   ONE " 8@%rsi"
#    define THREE TWO " 8@%rdx"
#    define FIVE  THREE " 8@%rcx 8@%r8"
#elif defined(__aarch64__)
#    define ONE   "8@x0"
#    define TWO   ONE " 8@x1"
#    define THREE TWO " 8@x2"
#    define FIVE  THREE " 8@x3 8@x4"
#else
#    error "where this processor's calls have their arguments is not known here"
#endif

__asm__(".pushsection .stapsdt.base,\"aR\",\"progbits\"\n"
        "hak_probe_base: .space 1\n"
        ".popsection");

#define NOTE(name, arguments)                            \
    __asm__(".pushsection .note.stapsdt,\"\",\"note\"\n" \
            ".balign 4\n"                                \
            ".4byte 992f-991f, 994f-993f, 3\n"           \
            "991: .asciz \"stapsdt\"\n"                  \
            "992: .balign 4\n"                           \
            "993: .8byte hak_probe_" #name "\n"          \
            ".8byte hak_probe_base\n"                    \
            ".8byte 0\n" /* no semaphore */              \
            ".asciz \"hakmem\"\n"                        \
            ".asciz \"" #name "\"\n"                     \
            ".asciz \"" arguments "\"\n"                 \
            "994: .balign 4\n"                           \
            ".popsection");

NOTE(sample, FIVE)
NOTE(sample_free, FIVE)
NOTE(slab_claim, TWO)
NOTE(slab_release, TWO)
NOTE(purge, ONE)
NOTE(heap_make, TWO)
NOTE(heap_adopt, TWO)
NOTE(heap_give, TWO)
NOTE(misuse, THREE)
