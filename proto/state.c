/* state.bin's codec: see state.h. */
#include "state.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "bounded.h"
#include "manifest.h"

#define DECODE_BUDGET (64U << 20)
#define PART_VERSION  1 /* newest version of the KVM and vCPU parts */
#define DEVICES_MAX   256
#define MSRS_MAX      1024
#define CPUID_MAX     256

static int damaged(struct err *e, const char *why)
{
	return err_also(e, EBADMSG, "state.bin is damaged: %s", why);
}

static int newer(struct err *e, const char *part, uint32_t version)
{
	return err_also(e, EBADMSG, "state.bin has %s of version %u, this program reads up to %u",
			part, version, PART_VERSION);
}

/* The first of these that fails is all that is said: what follows would be guesses. */
static int check_frame(const VmState *s, struct err *e)
{
	if (s->version != STATE_VERSION)
		newer(e, "a machine", s->version);
	else if (!s->kvm)
		damaged(e, "the interrupt controllers and timers are missing");
	else if (s->n_vcpu == 0 || s->n_vcpu > MANIFEST_VCPUS_MAX)
		damaged(e, "the number of vCPUs is out of range");
	else if (s->n_device > DEVICES_MAX)
		damaged(e, "too many devices");
	else
		return 0;
	return -E2BIG;
}

static int check_lists(const VmState *s, struct err *e)
{
	for (size_t i = 0; i < s->n_vcpu; i++)
		if (s->vcpu[i]->n_msr > MSRS_MAX || s->vcpu[i]->n_cpuid > CPUID_MAX) {
			damaged(e, "a vCPU has too many MSRs or CPUID entries");
			return -E2BIG;
		}
	return 0;
}

/* Each once, however many vCPUs have it. */
static int check_vcpus(const VmState *s, struct err *e)
{
	bool numbered = true;
	uint32_t version = 0;
	int rc = 0;

	for (size_t i = 0; i < s->n_vcpu; i++) {
		if (s->vcpu[i]->version > version)
			version = s->vcpu[i]->version;
		numbered &= s->vcpu[i]->id == i;
	}
	if (version > PART_VERSION)
		rc = newer(e, "a vCPU", version);
	return numbered ? rc : damaged(e, "the vCPUs are not numbered from 0");
}

static int check_devices(const VmState *s, struct err *e)
{
	int rc = 0;

	for (size_t i = 0; i < s->n_device; i++)
		for (size_t j = 0; j < i; j++)
			if (strcmp(s->device[i]->name, s->device[j]->name) == 0) {
				rc = err_also(e, EBADMSG,
					      "state.bin is damaged: device %.64s is there twice",
					      s->device[i]->name);
				break;
			}
	return rc;
}

int proto_state_check(const VmState *s, struct err *e)
{
	int rc = check_frame(s, e), found;

	if (rc == 0)
		rc = check_lists(s, e);
	if (rc < 0)
		return rc;
	if (s->kvm->version > PART_VERSION)
		rc = newer(e, "KVM's part", s->kvm->version);
	found = check_vcpus(s, e);
	rc = rc < 0 ? rc : found;
	found = check_devices(s, e);
	return rc < 0 ? rc : found;
}

int proto_state_parse(const uint8_t *buf, size_t len, VmState **out, struct err *e)
{
	if (len > STATE_MAX)
		return damaged(e, "it is larger than 16 MiB");
	*out = (VmState *)proto_unpack_bounded(&vm_state__descriptor, buf, len, DECODE_BUDGET);
	return *out ? 0 : damaged(e, "it cannot be parsed");
}

int proto_state_decode(const uint8_t *buf, size_t len, VmState **out, struct err *e)
{
	VmState *s;
	int rc;

	if (e)
		*e = (struct err){ 0 };
	rc = proto_state_parse(buf, len, &s, e);
	if (rc < 0)
		return rc;
	rc = proto_state_check(s, e);
	if (rc < 0) {
		proto_state_free(s);
		return -EBADMSG;
	}
	*out = s;
	return 0;
}

int proto_state_encode(const VmState *s, uint8_t **buf, size_t *len, struct err *e)
{
	size_t n = vm_state__get_packed_size(s);
	auto_free uint8_t *data = NULL;

	if (n > STATE_MAX)
		return err_refuse(e, EFBIG, "the machine's state is larger than 16 MiB");
	data = malloc(n ? n : 1);
	if (!data)
		return err_sys(e, ENOMEM, "cannot encode the machine's state");
	*len = vm_state__pack(s, data);
	*buf = take_ptr(&data);
	return 0;
}

void proto_state_free(VmState *s)
{
	if (s)
		vm_state__free_unpacked(s, NULL);
}
