/* state.bin's codec: see state.h. */
#include "state.h"

#include <errno.h>
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
	return err_refuse(e, EBADMSG, "state.bin is damaged: %s", why);
}

static int newer(struct err *e, const char *part, uint32_t version)
{
	return err_refuse(e, EBADMSG, "state.bin has %s of version %u, this program reads up to %u",
			  part, version, PART_VERSION);
}

static int check_vcpus(const VmState *s, struct err *e)
{
	if (s->n_vcpu == 0 || s->n_vcpu > MANIFEST_VCPUS_MAX)
		return damaged(e, "the number of vCPUs is out of range");
	for (size_t i = 0; i < s->n_vcpu; i++) {
		if (s->vcpu[i]->version > PART_VERSION)
			return newer(e, "a vCPU", s->vcpu[i]->version);
		if (s->vcpu[i]->n_msr > MSRS_MAX || s->vcpu[i]->n_cpuid > CPUID_MAX)
			return damaged(e, "a vCPU has too many MSRs or CPUID entries");
		if (s->vcpu[i]->id != i)
			return damaged(e, "the vCPUs are not numbered from 0");
	}
	return 0;
}

static int check_devices(const VmState *s, struct err *e)
{
	if (s->n_device > DEVICES_MAX)
		return damaged(e, "too many devices");
	for (size_t i = 0; i < s->n_device; i++)
		for (size_t j = 0; j < i; j++)
			if (strcmp(s->device[i]->name, s->device[j]->name) == 0)
				return err_refuse(
					e, EBADMSG,
					"state.bin is damaged: device %.64s is there twice",
					s->device[i]->name);
	return 0;
}

static int check(const VmState *s, struct err *e)
{
	int rc;

	if (s->version != STATE_VERSION)
		return newer(e, "a machine", s->version);
	if (!s->kvm)
		return damaged(e, "the interrupt controllers and timers are missing");
	if (s->kvm->version > PART_VERSION)
		return newer(e, "KVM's part", s->kvm->version);
	rc = check_vcpus(s, e);
	return rc < 0 ? rc : check_devices(s, e);
}

int proto_state_decode(const uint8_t *buf, size_t len, VmState **out, struct err *e)
{
	VmState *s;
	int rc;

	if (len > STATE_MAX)
		return damaged(e, "it is larger than 16 MiB");
	s = (VmState *)proto_unpack_bounded(&vm_state__descriptor, buf, len, DECODE_BUDGET);
	if (!s)
		return damaged(e, "it cannot be parsed");
	rc = check(s, e);
	if (rc < 0) {
		proto_state_free(s);
		return rc;
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
