/*
 * Part of the build: makes the sandbox's filter out of sandbox_rules.c and
 * writes it to the file argv[1] as C, for sandbox.c. libseccomp would take half a millisecond for
 * that at each start of vmm, a third of a restore; made here, the filter is
 * handed to the kernel as it is, and vmm needs no library for it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/filter.h>
#include <seccomp.h>

#include "sandbox_rules.h"

#define CALLS_MAX 512

static int add_rule(scmp_filter_ctx filter, const struct sandbox_rule *r)
{
	if (r->mask)
		return seccomp_rule_add(filter, SCMP_ACT_ALLOW, r->call, 1,
					SCMP_CMP64(r->arg, SCMP_CMP_MASKED_EQ, r->mask, r->value));
	return seccomp_rule_add(filter, SCMP_ACT_ALLOW, r->call, 0);
}

static int add_rules(scmp_filter_ctx filter)
{
	int rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), sandbox_unsupported, 0);

	/* Another architecture's calls (int 0x80) have no rules: there is no use for them. */
	if (rc == 0)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	/* Looked at first: each exit of a vCPU comes by. */
	if (rc == 0)
		rc = seccomp_syscall_priority(filter, SCMP_SYS(ioctl), 255);
	for (const struct sandbox_rule *r = sandbox_rules; rc == 0 && r->why; r++)
		rc = add_rule(filter, r);
	return rc;
}

static int print_filter(FILE *program, FILE *out)
{
	struct sock_filter i;

	fputs("/* Made by sandbox_gen out of sandbox_rules.c. */\n"
	      "static const struct sock_filter filter[] = {\n",
	      out);
	rewind(program);
	while (fread(&i, sizeof(i), 1, program) == 1)
		fprintf(out, "\t{ 0x%x, %u, %u, 0x%xU },\n", i.code, i.jt, i.jf, i.k);
	fputs("};\n", out);
	return ferror(program) ? -EIO : 0;
}

static void print_names(FILE *out)
{
	fputs("static const char *const call_names[] = {\n", out);
	for (int nr = 0; nr < CALLS_MAX; nr++) {
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, nr);

		if (name)
			fprintf(out, "\t[%d] = \"%s\",\n", nr, name);
		free(name);
	}
	fputs("};\n", out);
}

static int generate(FILE *program)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
	int rc = filter ? add_rules(filter) : -ENOMEM;

	if (rc == 0)
		rc = seccomp_export_bpf(filter, fileno(program));
	if (filter)
		seccomp_release(filter);
	return rc;
}

int main(int argc, char **argv)
{
	FILE *out = argc == 2 ? fopen(argv[1], "we") : NULL;
	FILE *program = tmpfile();
	int rc = out && program ? generate(program) : -errno;

	if (rc == 0)
		rc = print_filter(program, out);
	if (rc == 0)
		print_names(out);
	if (program)
		fclose(program);
	if (out && fclose(out) && rc == 0)
		rc = -errno;
	if (rc < 0)
		fprintf(stderr, "sandbox_gen: %s\n", strerror(-rc));
	return rc < 0;
}
