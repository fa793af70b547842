/* Which pages of RAM have changed: see dirty.h. */
#include "dirty.h"

#include <errno.h>

static int ensure_set(struct machine *m, struct err *e)
{
	const uint64_t pages = m->ram.size / RAM_PAGE;

	if (m->dirty.pages == pages || pageset_init(&m->dirty, pages) == 0)
		return 0;
	m->dirty.pages = 0;
	return err_sys(e, ENOMEM, "cannot remember which pages of RAM change");
}

int dirty_start(struct machine *m, struct err *e)
{
	int rc = ensure_set(m, e);

	if (rc < 0 || m->ram.log_dirty)
		return rc;
	m->ram.log_dirty = true;
	rc = vm_log_ram(&m->vm, 0, &m->ram);
	if (rc == 0)
		return 0;
	m->ram.log_dirty = false;
	return err_sys(e, -rc, "KVM does not log which pages of RAM the guest changes");
}

/* What devices write is marked when it is handed to the kernel, and there when they pause. */
static void take_written(struct machine *m)
{
	for (unsigned i = 0; i < m->nio; i++)
		iothread_pause(&m->io[i]);
	ram_take_written(&m->ram, m->dirty.bits);
	for (unsigned i = 0; i < m->nio; i++)
		iothread_unpause(&m->io[i]);
}

int dirty_collect(struct machine *m, struct err *e)
{
	int rc;

	if (!m->ram.log_dirty)
		return 0;
	rc = ensure_set(m, e);
	if (rc < 0)
		return rc;
	take_written(m);
	rc = m->vm.fd < 0 ? 0 : vm_take_dirty(&m->vm, 0, &m->ram, m->dirty.bits);
	return rc < 0 ? err_sys(e, -rc, "KVM does not tell which pages of RAM have changed") : 0;
}
