/* What a snapshot needs of a host: see preflight.h. */
#define _GNU_SOURCE
#include "preflight.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "cpuid.h"
#include "machine.h"
#include "msr.h"
#include "virtio/virtio.h"

#define NAMES_MAX 700 /* bytes of a list of names in a sentence */
#define MSRS_SAID 8   /* MSRs named in a sentence */
#define XSAVE_BIT (1U << 26)

/* ---- the host ---- */

int preflight_ask(struct kvm_host *kvm, struct preflight_host *h, struct err *e)
{
	const size_t size =
		sizeof(struct kvm_cpuid2) + KVM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2);
	int rc;

	*h = (struct preflight_host){ .msrs = kvm->msrs, .tsc_control = kvm->tsc_control };
	rc = cpuid_ask(kvm, &h->supported, e);
	if (rc < 0)
		return rc;
	h->offered = malloc(size);
	if (!h->offered)
		return err_sys(e, ENOMEM, "cannot look at the host's CPU");
	memcpy(h->offered, h->supported, size);
	cpuid_mask(h->offered, cpuid_host_has_deadline(kvm));
	h->tsc_khz = kvm_host_tsc_khz(kvm);
	rc = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	h->vcpus_max = rc > 0 ? (unsigned)rc : 4; /* api.rst, 4.7: what it is where not told */
	h->ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	return 0;
}

void preflight_forget(struct preflight_host *h)
{
	free(h->supported);
	free(h->offered);
	*h = (struct preflight_host){ 0 };
}

/* ---- CPU ---- */

/* What all the lists of a snapshot ask for. */
struct wanted {
	struct cpu_features features;
	uint32_t leaves; /* bit i: cpu_unsaved_leaves[i] is shown */
	uint32_t moved;	 /* state components that lie elsewhere than on the host */
	char vendor[13]; /* one that is not the host's, or "" */
};

static void want_leaves(const struct kvm_cpuid2 *list, struct wanted *w)
{
	for (uint32_t i = 0; i < list->nent; i++) {
		const struct kvm_cpuid_entry2 *c = &list->entries[i];

		for (size_t j = 0; j < cpu_unsaved_leaves_count; j++)
			if (c->function == cpu_unsaved_leaves[j].function &&
			    (c->eax | c->ebx | c->ecx | c->edx))
				w->leaves |= 1U << j;
	}
}

/* KVM_SET_XSAVE takes an area as the host's CPU lays it out. */
static void want_layout(const struct preflight_host *h, const struct kvm_cpuid2 *list,
			struct wanted *w)
{
	for (uint32_t i = 0; i < list->nent; i++) {
		const struct kvm_cpuid_entry2 *c = &list->entries[i], *own;

		if (c->function != 0xd || c->index < 2 || c->index > 31 || !c->eax)
			continue;
		own = cpuid_find(h->supported, 0xd, c->index);
		if (own && own->eax && (own->eax != c->eax || own->ebx != c->ebx))
			w->moved |= 1U << c->index;
	}
}

static int want(const struct preflight_host *h, CpuidEntry *const *entries, size_t n,
		struct wanted *w)
{
	auto_free struct kvm_cpuid2 *list = cpuid_from_entries(entries, n);
	char vendor[13], own[13];
	struct cpu_features f;

	if (!list)
		return -ENOMEM;
	cpu_features_of(list, &f);
	if (!(f.word[WORD_1_ECX] & XSAVE_BIT)) /* then leaf 0xd says nothing */
		f.word[WORD_XCR0] = f.word[WORD_XCR0_HIGH] = f.word[WORD_XSAVE] = f.word[WORD_XSS] =
			f.word[WORD_XSS_HIGH] = 0;
	else
		want_layout(h, list, w);
	for (unsigned i = 0; i < CPU_WORDS; i++)
		w->features.word[i] |= f.word[i];
	want_leaves(list, w);
	cpuid_vendor(list, vendor);
	if (*vendor && strcmp(vendor, cpuid_vendor(h->supported, own)) != 0)
		memcpy(w->vendor, vendor, sizeof(vendor));
	return 0;
}

static int want_all(const struct preflight_host *h, const SnapshotManifest *m, const VmState *s,
		    struct wanted *w)
{
	int rc = 0;
	char own[13];

	*w = (struct wanted){ 0 };
	if (m->cpu)
		rc = want(h, m->cpu->cpuid, m->cpu->n_cpuid, w);
	for (size_t i = 0; rc == 0 && s && i < s->n_vcpu; i++)
		rc = want(h, s->vcpu[i]->cpuid, s->vcpu[i]->n_cpuid, w);
	if (m->cpu && *m->cpu->vendor &&
	    strcmp(m->cpu->vendor, cpuid_vendor(h->supported, own)) != 0)
		snprintf(w->vendor, sizeof(w->vendor), "%s", m->cpu->vendor);
	return rc;
}

/* The state components of a feature go without saying beside it. */
static void drop_components(struct cpu_features *f)
{
	struct cpu_features others = *f;

	others.word[WORD_XCR0] = others.word[WORD_XCR0_HIGH] = 0;
	if (cpu_features_any(&others))
		*f = others;
}

/* What is asked for and not offered: because the host has it not, or because it is not saved. */
static void find_missing(const struct preflight_host *h, const struct wanted *w,
			 struct cpu_features *lacking, struct cpu_features *unsaved)
{
	struct cpu_features supported, offered;

	cpu_features_of(h->supported, &supported);
	cpu_features_of(h->offered, &offered);
	for (unsigned i = 0; i < CPU_WORDS; i++) {
		const uint32_t missing =
			w->features.word[i] & ~offered.word[i] & ~cpu_word_places[i].ours;

		lacking->word[i] = missing & ~supported.word[i];
		unsaved->word[i] = missing & supported.word[i];
	}
	drop_components(lacking);
	drop_components(unsaved);
}

bool preflight_wants_probe(const struct preflight_host *h, const SnapshotManifest *m,
			   const VmState *s)
{
	struct cpu_features lacking, unsaved;
	struct wanted w;

	if (want_all(h, m, s, &w) < 0)
		return false;
	find_missing(h, &w, &lacking, &unsaved);
	return cpu_features_any(&lacking) || cpu_features_any(&unsaved);
}

int preflight_probe(struct kvm_host *kvm, struct preflight_host *h, struct err *e)
{
	struct cpu_features forced;
	int rc = cpuid_probe_forced(kvm, h->offered, &forced);

	if (rc < 0)
		return err_sys(e, -rc, "cannot look at what a vCPU shows on this host");
	cpuid_add(h->supported, &forced);
	cpuid_add(h->offered, &forced);
	return 0;
}

static int check_features(const struct preflight_host *h, const struct wanted *w, struct err *e)
{
	struct cpu_features lacking, unsaved;
	char names[NAMES_MAX];
	int rc = 0;

	find_missing(h, w, &lacking, &unsaved);
	if (cpu_features_any(&lacking))
		rc = err_also(e, EINVAL, "the snapshot uses %s, which this host has not",
			      cpu_feature_names(&lacking, names, sizeof(names)));
	if (cpu_features_any(&unsaved))
		rc = err_also(e, EINVAL,
			      "the snapshot uses %s, which this program does not save and so does "
			      "not offer",
			      cpu_feature_names(&unsaved, names, sizeof(names)));
	return rc;
}

static int check_leaves(const struct wanted *w, struct err *e)
{
	char names[NAMES_MAX] = "";
	size_t n = 0;

	for (size_t j = 0; j < cpu_unsaved_leaves_count; j++)
		if (w->leaves & 1U << j && n < sizeof(names))
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "",
					      cpu_unsaved_leaves[j].what);
	if (!n)
		return 0;
	return err_also(e, EINVAL,
			"the snapshot's CPU shows %s, which this program does not save and so does "
			"not offer",
			names);
}

static int check_cpu(const struct preflight_host *h, const SnapshotManifest *m, const VmState *s,
		     struct err *e)
{
	struct wanted w;
	char own[13], names[NAMES_MAX];
	int rc = 0, found;

	if (want_all(h, m, s, &w) < 0)
		return err_also(e, ENOMEM, "no memory to look at the snapshot's CPU");
	if (*w.vendor)
		rc = err_also(e, EINVAL, "the snapshot's CPU is of '%s', this host's of '%s'",
			      w.vendor, cpuid_vendor(h->supported, own));
	found = check_features(h, &w, e);
	rc = rc < 0 ? rc : found;
	found = check_leaves(&w, e);
	rc = rc < 0 ? rc : found;
	if (w.moved) {
		const struct cpu_features moved = { .word[WORD_XCR0] = w.moved };

		rc = err_also(e, EINVAL,
			      "the snapshot's XSAVE area has %s at another place than this host's",
			      cpu_feature_names(&moved, names, sizeof(names)));
	}
	return rc;
}

/* ---- TSC ---- */

bool preflight_tsc_differs(uint32_t saved_khz, uint32_t host_khz)
{
	const uint64_t apart = saved_khz > host_khz ? saved_khz - host_khz : host_khz - saved_khz;

	return saved_khz && host_khz && apart * 1000000 / host_khz > 250;
}

static int check_tsc(const struct preflight_host *h, const SnapshotManifest *m, const VmState *s,
		     struct err *e)
{
	uint32_t khz = m->tsc_khz;

	for (size_t i = 0; s && i < s->n_vcpu; i++)
		if (!preflight_tsc_differs(khz, h->tsc_khz))
			khz = s->vcpu[i]->tsc_khz;
	if (h->tsc_control || !preflight_tsc_differs(khz, h->tsc_khz))
		return 0;
	return err_also(e, EINVAL,
			"the snapshot's TSC runs at %u kHz, this host's at %u kHz, and its KVM "
			"cannot scale it",
			khz, h->tsc_khz);
}

/* ---- MSRs ---- */

/* Numbers, each once. */
struct msr_set {
	uint32_t index[1024];
	size_t n;
};

static void msr_add(struct msr_set *set, uint32_t index)
{
	for (size_t i = 0; i < set->n; i++)
		if (set->index[i] == index)
			return;
	if (set->n < sizeof(set->index) / sizeof(set->index[0]))
		set->index[set->n++] = index;
}

static void msr_words(const struct msr_set *set, char *room, size_t size)
{
	size_t n = 0;

	*room = '\0';
	for (size_t i = 0; i < set->n && i < MSRS_SAID; i++) {
		char name[MSR_NAME_MAX];

		n += (size_t)snprintf(room + n, size - n, "%s%s", i ? ", " : "",
				      msr_name(set->index[i], name));
	}
	if (set->n > MSRS_SAID)
		snprintf(room + n, size - n, " and %zu more", set->n - MSRS_SAID);
}

static int check_msrs(const struct preflight_host *h, const VmState *s, struct err *e)
{
	struct msr_set missing = { .n = 0 }, without = { .n = 0 };
	char words[NAMES_MAX];

	for (size_t i = 0; i < s->n_vcpu; i++)
		for (size_t j = 0; j < s->vcpu[i]->n_msr; j++) {
			const Msr *m = s->vcpu[i]->msr[j];
			const enum msr_fate fate = msr_fate(h->msrs, m);

			if (fate == MSR_MISSING)
				msr_add(&missing, m->index);
			else if (fate == MSR_IDLE || fate == MSR_TRIFLE)
				msr_add(&without, m->index);
		}
	if (without.n) {
		msr_words(&without, words, sizeof(words));
		log_info("this host's KVM does not have %s %s: the guest goes on without, it does "
			 "not need %s",
			 without.n > 1 ? "the MSRs" : "the MSR", words,
			 without.n > 1 ? "them" : "it");
	}
	if (!missing.n)
		return 0;
	msr_words(&missing, words, sizeof(words));
	return err_also(e, EINVAL, "the snapshot uses %s %s, which this host's KVM does not have",
			missing.n > 1 ? "the MSRs" : "the MSR", words);
}

/* ---- sizes ---- */

static int check_sizes(const struct preflight_host *h, const SnapshotManifest *m, struct err *e)
{
	const struct kvm_cpuid_entry2 *c = cpuid_find(h->supported, 0x80000008, 0);
	const unsigned bits = c && (c->eax & 0xff) ? c->eax & 0xff : 36;
	char want_text[TEXT_SIZE_MAX], have_text[TEXT_SIZE_MAX];
	uint64_t top = 0;
	int rc = 0;

	for (size_t i = 0; i < m->n_ram; i++)
		if (__builtin_add_overflow(m->ram[i]->guest_address, m->ram[i]->size, &top))
			top = UINT64_MAX;
	if (m->memory_size_bytes > h->ram)
		rc = err_also(e, EINVAL, "the snapshot has %s of RAM, this host %s",
			      text_format_size(m->memory_size_bytes, want_text),
			      text_format_size(h->ram, have_text));
	if (bits < 64 && top > 1ULL << bits)
		rc = err_also(e, EINVAL,
			      "the snapshot's RAM reaches to 0x%llx, this host's addresses have %u "
			      "bits",
			      (unsigned long long)top, bits);
	if (m->vp_count > h->vcpus_max)
		rc = err_also(e, EINVAL, "the snapshot has %u vCPUs, this host's KVM takes %u",
			      m->vp_count, h->vcpus_max);
	return rc;
}

int preflight_check(const struct preflight_host *h, const SnapshotManifest *m, const VmState *s,
		    struct err *e)
{
	int rc = check_cpu(h, m, s, e);
	int found = check_tsc(h, m, s, e);

	rc = rc < 0 ? rc : found;
	found = s ? check_msrs(h, s, e) : 0;
	rc = rc < 0 ? rc : found;
	found = check_sizes(h, m, e);
	return rc < 0 || found < 0 ? -EINVAL : 0;
}

/* ---- devices ---- */

static const DeviceState *find_state(const VmState *s, const char *name)
{
	for (size_t i = 0; i < s->n_device; i++)
		if (strcmp(s->device[i]->name, name) == 0)
			return s->device[i];
	return NULL;
}

static const Device *find_device(const SnapshotManifest *m, const char *name)
{
	for (size_t i = 0; m->machine && i < m->machine->n_device; i++)
		if (strcmp(m->machine->device[i]->name, name) == 0)
			return m->machine->device[i];
	return NULL;
}

/* A device of the manifest, or one that every machine has: its state is there, and not too new. */
static int check_state(const VmState *s, const char *name, uint32_t newest, struct err *e)
{
	const DeviceState *d = find_state(s, name);

	if (!d)
		return err_also(e, EINVAL, "state.bin has nothing of device %.64s", name);
	if (d->version > newest)
		return err_also(
			e, EINVAL,
			"state.bin has device %.64s of version %u, this program reads up to %u",
			name, d->version, newest);
	return 0;
}

static int check_builtin(const SnapshotManifest *m, const VmState *s,
			 const struct machine_builtin *b, struct err *e)
{
	const Device *d = find_device(m, b->name);
	int rc = 0;

	if (d && (strcmp(d->kind, b->kind) != 0 || d->address != b->port || d->interrupt != b->irq))
		rc = err_also(
			e, EINVAL,
			"the snapshot has device %s as a '%.64s' at 0x%llx, interrupt %u; this "
			"program as a '%s' at 0x%x, interrupt %u",
			b->name, d->kind, (unsigned long long)d->address, d->interrupt, b->kind,
			b->port, b->irq);
	return s && check_state(s, b->name, b->version, e) < 0 ? -EINVAL : rc;
}

static bool is_builtin(const char *name)
{
	struct machine_builtin b;

	for (unsigned i = 0; machine_builtin(i, &b); i++)
		if (strcmp(b.name, name) == 0)
			return true;
	return false;
}

/* That the device, the n-th virtio one, is where this program has it, and is not one too many. */
static int check_place(const SnapshotManifest *m, const Device *d, unsigned n, struct err *e)
{
	const struct virtio_ops *ops = virtio_find_kind(d->kind);
	unsigned same = 0;
	uint64_t address;
	uint32_t irq;

	for (size_t i = 0; m->machine->device[i] != d; i++)
		same += strcmp(m->machine->device[i]->kind, d->kind) == 0;
	if (same >= ops->max || n >= MACHINE_VIRTIO_MAX)
		return err_also(e, EINVAL,
				"the snapshot has too many devices for %.64s: at most %u of its "
				"kind, %d in all",
				d->name, ops->max, MACHINE_VIRTIO_MAX);
	machine_virtio_place(n, &address, &irq);
	if (d->address == 0 || (d->address == address && d->interrupt == irq))
		return 0;
	return err_also(e, EINVAL,
			"the snapshot has device %.64s at 0x%llx, interrupt %u; this program at "
			"0x%llx, interrupt %u",
			d->name, (unsigned long long)d->address, d->interrupt,
			(unsigned long long)address, irq);
}

/* What its state says of itself, against the RAM that the manifest says there is. */
static int check_virtio_state(const SnapshotManifest *m, const VmState *s, const Device *d,
			      struct err *e)
{
	const DeviceState *state = find_state(s, d->name);
	struct ram shape = { .size = m->memory_size_bytes };
	struct err found = { 0 };

	if (!state)
		return 0;
	shape.nregions = ram_layout(shape.size, shape.region);
	if (virtio_check_state(virtio_find_kind(d->kind), d->name, &shape, state->state.data,
			       state->state.len, &found) < 0)
		return err_also(e, EINVAL, "%s", found.text);
	return 0;
}

/* A device that this machine has and others need not; n: how many such are before it. */
static int check_other(const SnapshotManifest *m, const VmState *s, const Device *d, unsigned n,
		       struct err *e)
{
	uint32_t newest;
	int rc = 0;

	if (!machine_kind_version(d->kind, &newest))
		return err_also(e, EINVAL,
				"the snapshot has a device %.64s of kind '%.64s', which is unknown",
				d->name, d->kind);
	if (virtio_find_kind(d->kind))
		rc = check_place(m, d, n, e);
	else /* two would have the same ports */
		rc = err_also(e, EINVAL, "the snapshot has a %s more than this program: %.64s",
			      d->kind, d->name);
	if (!s)
		return rc;
	if (check_state(s, d->name, newest, e) < 0)
		return -EINVAL;
	if (virtio_find_kind(d->kind) && check_virtio_state(m, s, d, e) < 0)
		return -EINVAL;
	return rc;
}

int preflight_devices(const SnapshotManifest *m, const VmState *s, struct err *e)
{
	struct machine_builtin b;
	unsigned n = 0;
	int rc = 0;

	for (unsigned i = 0; machine_builtin(i, &b); i++)
		rc |= check_builtin(m, s, &b, e);
	for (size_t i = 0; m->machine && i < m->machine->n_device; i++)
		if (!is_builtin(m->machine->device[i]->name))
			rc |= check_other(m, s, m->machine->device[i], n++, e);
	for (size_t i = 0; s && i < s->n_device; i++) {
		const char *name = s->device[i]->name;

		if (!is_builtin(name) && !find_device(m, name))
			rc |= err_also(e, EINVAL, "state.bin has a device %.64s, which is unknown",
				       name);
	}
	return rc ? -EINVAL : 0;
}
