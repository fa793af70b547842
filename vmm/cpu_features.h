/*
 * The features that CPUID tells of, as tables: the words they stand in, their
 * names, which of them a guest is not offered and why, and which the profiles of
 * --cpu have. Nothing here asks the host; cpuid.c and preflight.c apply it.
 *
 * Sources: Intel SDM 2A (CPUID), AMD APM 3 (appendix E), the x86-64 psABI,
 * Documentation/virt/kvm/x86/cpuid.rst.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/kvm.h>

enum cpu_reg { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX };

/* A register of a leaf whose bits are features. */
enum cpu_word {
	WORD_1_ECX,
	WORD_1_EDX,
	WORD_6_EAX,
	WORD_6_ECX,
	WORD_7_EBX,
	WORD_7_ECX,
	WORD_7_EDX,
	WORD_7_1_EAX,
	WORD_7_1_ECX,
	WORD_7_1_EDX,
	WORD_7_2_EDX,
	WORD_XCR0, /* 0xd.0 EAX: state components */
	WORD_XCR0_HIGH,
	WORD_XSAVE, /* 0xd.1 EAX */
	WORD_XSS,   /* 0xd.1 ECX */
	WORD_XSS_HIGH,
	WORD_KVM, /* 0x40000001 EAX */
	WORD_EXT_ECX,
	WORD_EXT_EDX,
	WORD_EXT7_EDX,
	WORD_EXT8_EBX,
	WORD_EXT21_EAX,
	WORD_EXT21_ECX,
	CPU_WORDS
};

struct cpu_features {
	uint32_t word[CPU_WORDS];
};

struct cpu_word_place {
	uint32_t function, index;
	enum cpu_reg reg;
	uint32_t ours; /* bits that the monitor or the guest's own registers decide */
};

extern const struct cpu_word_place cpu_word_places[CPU_WORDS];

/* "avx512f", or "CPUID 0x7.0 EBX bit 3" for what has no name here, into room; returns it. */
#define CPU_NAME_MAX 40
char *cpu_feature_name(enum cpu_word w, unsigned bit, char room[CPU_NAME_MAX]);

/* The names of all of them, "a, b and c", cut off with "and N more" before room ends. */
char *cpu_feature_names(const struct cpu_features *f, char *room, size_t size);

bool cpu_features_any(const struct cpu_features *f);

/* The register of an entry, to read or change. */
uint32_t *cpu_entry_reg(struct kvm_cpuid_entry2 *c, enum cpu_reg reg);

/*
 * The features that a list shows. An entry that KVM would take for a leaf
 * counts, and of two for one leaf both: what is not shown here no guest sees.
 */
void cpu_features_of(const struct kvm_cpuid2 *cpuid, struct cpu_features *out);

/* Features that a guest is not offered: their state is in no part of state.bin. */
struct cpu_unsaved {
	enum cpu_word word;
	uint32_t bits;
	const char *why;
};

extern const struct cpu_unsaved cpu_unsaved[];
extern const size_t cpu_unsaved_count;

/* Leaves that are not shown at all, for the same reason. */
struct cpu_unsaved_leaf {
	uint32_t function;
	const char *what;
};

extern const struct cpu_unsaved_leaf cpu_unsaved_leaves[];
extern const size_t cpu_unsaved_leaves_count;

/*
 * A profile of --cpu: it shows `needed` on every host, and of `as_host` what
 * that host has; all other features are hidden.
 */
struct cpu_profile {
	const char *name;
	unsigned level; /* of the psABI */
};

extern const struct cpu_profile cpu_profiles[];
extern const size_t cpu_profiles_count;

/* NULL: there is no such profile. */
const struct cpu_profile *cpu_profile_find(const char *name);
void cpu_profile_features(const struct cpu_profile *p, struct cpu_features *needed,
			  struct cpu_features *as_host);
