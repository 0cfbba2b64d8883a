// SPDX-License-Identifier: Apache-2.0
// base: probes that tracers can be attached to (USDT), as systemtap's sys/sdt.h makes them.
//
// A probe is a NOP in the code and a note in the ELF file (.note.stapsdt) that says where it is,
// what it is called, and where its arguments are at that point: bpftrace, perf, gdb and systemtap
// read the notes. The provider is "hakmem". For slow ways only: the arguments have to be somewhere.
// The section .stapsdt.base, by which tracers find out how far the code has moved since it was
// linked, is retained ("R"): nothing else refers to it. HAK_PROBES=0 (a build setting) leaves them
// all out.
#ifndef HAKMEM_BOXES_BASE_PROBE_H
#define HAKMEM_BOXES_BASE_PROBE_H

#ifndef HAK_PROBES
#    define HAK_PROBES 1
#endif

// Arguments are 64-bit numbers, in a register or as constants.
#if HAK_PROBES
#    define HAK_PROBE_ASM(name, arguments)                                         \
        "990: nop\n"                                                               \
        "\t.pushsection .note.stapsdt,\"\",\"note\"\n"                             \
        "\t.balign 4\n"                                                            \
        "\t.4byte 992f-991f, 994f-993f, 3\n"                                       \
        "991:\t.asciz \"stapsdt\"\n"                                               \
        "992:\t.balign 4\n"                                                        \
        "993:\t.8byte 990b\n"                                                      \
        "\t.8byte _.stapsdt.base\n"                                                \
        "\t.8byte 0\n"                                                             \
        "\t.asciz \"hakmem\"\n"                                                    \
        "\t.asciz \"" #name "\"\n"                                                 \
        "\t.asciz \"" arguments "\"\n"                                             \
        "994:\t.balign 4\n"                                                        \
        "\t.popsection\n"                                                          \
        "\t.ifndef _.stapsdt.base\n"                                               \
        "\t.pushsection .stapsdt.base,\"aGR\",\"progbits\",.stapsdt.base,comdat\n" \
        "\t.weak _.stapsdt.base\n"                                                 \
        "\t.hidden _.stapsdt.base\n"                                               \
        "_.stapsdt.base:\t.space 1\n"                                              \
        "\t.size _.stapsdt.base, 1\n"                                              \
        "\t.popsection\n"                                                          \
        "\t.endif\n"
#    define HAK_PROBE1(name, a) \
        __asm__ volatile(HAK_PROBE_ASM(name, "8@%0") : : "nr"((unsigned long)(a)))
#    define HAK_PROBE2(name, a, b)                        \
        __asm__ volatile(HAK_PROBE_ASM(name, "8@%0 8@%1") \
                         :                                \
                         : "nr"((unsigned long)(a)), "nr"((unsigned long)(b)))
#    define HAK_PROBE3(name, a, b, c)                                          \
        __asm__ volatile(HAK_PROBE_ASM(name, "8@%0 8@%1 8@%2")                 \
                         :                                                     \
                         : "nr"((unsigned long)(a)), "nr"((unsigned long)(b)), \
                           "nr"((unsigned long)(c)))
#else
#    define HAK_PROBE1(name, a)       ((void)(a))
#    define HAK_PROBE2(name, a, b)    ((void)(a), (void)(b))
#    define HAK_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#endif

#endif
