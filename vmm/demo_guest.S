/*
 * The demo guest: see demo_guest.h. Entered in 64-bit mode with the first
 * 4 GiB mapped to themselves, on vCPU 0. Position independent; what it changes
 * lies within itself, in its copy in guest RAM.
 */
	.section .rodata.demo_guest, "a", @progbits
	.globl demo_guest_start, demo_guest_end, demo_guest_nonce
	.balign 16
	.code64

	.set COM1, 0x3f8
	.set LSR, COM1 + 5
	.set LAPIC, 0xfee00000
	.set IOAPIC, 0xfec00000
	.set TIMER_VECTOR, 0x30
	.set RESTORE_VECTOR, 0x31
	.set IRQ, 9
	.set TIMER_COUNT, 10000000	/* 10 ms of KVM's 1 GHz APIC bus clock */

demo_guest_start:
	cld
	mov	$0xff, %al		/* no interrupt by way of the PICs */
	out	%al, $0x21
	out	%al, $0xa1

	mov	$TIMER_VECTOR, %ecx
	lea	on_timer(%rip), %rax
	call	set_gate
	mov	$RESTORE_VECTOR, %ecx
	lea	on_restore(%rip), %rax
	call	set_gate
	lea	idt(%rip), %rax
	mov	%rax, idt_base(%rip)
	lidt	idt_pointer(%rip)

	/* IOAPIC: the restore line, edge-triggered, to APIC 0. */
	mov	$IOAPIC, %rdi
	movl	$(0x11 + 2 * IRQ), (%rdi)
	movl	$0, 0x10(%rdi)
	movl	$(0x10 + 2 * IRQ), (%rdi)
	movl	$RESTORE_VECTOR, 0x10(%rdi)

	/* Local APIC: on, timer periodic, undivided. */
	mov	$LAPIC, %rdi
	movl	$0x1ff, 0xf0(%rdi)
	movl	$0xb, 0x3e0(%rdi)
	movl	$(0x20000 | TIMER_VECTOR), 0x320(%rdi)
	movl	$TIMER_COUNT, 0x380(%rdi)

	lea	text_boot(%rip), %rsi
	call	print
	call	print_nonce

loop:
	cli
	cmpl	$0, wake(%rip)
	jne	tick
	sti				/* takes effect behind hlt: no wake-up is lost */
	hlt
	jmp	loop
tick:
	movl	$0, wake(%rip)
	sti
	incq	count(%rip)
	lea	text_tick(%rip), %rsi
	call	print
	mov	count(%rip), %rax
	call	print_number
	mov	$' ', %al
	call	put
	call	print_nonce
	jmp	loop

on_timer:
on_restore:
	push	%rdi
	movl	$1, wake(%rip)
	mov	$LAPIC, %rdi
	movl	$0, 0xb0(%rdi)		/* end of interrupt */
	pop	%rdi
	iretq

/* Gate ecx of the IDT to handler rax. */
set_gate:
	shl	$4, %ecx
	lea	idt(%rip), %rdi
	add	%rcx, %rdi
	mov	%ax, (%rdi)
	movw	$0x10, 2(%rdi)
	movw	$0x8e00, 4(%rdi)	/* present, 64-bit interrupt gate */
	shr	$16, %rax
	mov	%ax, 6(%rdi)
	shr	$16, %rax
	mov	%eax, 8(%rdi)
	ret

/* The character al, when the line has room for it. */
put:
	mov	%al, %bl
	mov	$LSR, %edx
1:	in	%dx, %al
	test	$0x20, %al
	jz	1b
	mov	%bl, %al
	mov	$COM1, %edx
	out	%al, %dx
	ret

/* The string at rsi, up to its NUL. */
print:
	lodsb
	test	%al, %al
	jz	1f
	call	put
	jmp	print
1:	ret

print_nonce:
	lea	demo_guest_nonce(%rip), %rsi
	call	print
	mov	$'\n', %al
	jmp	put

/* rax in decimal. */
print_number:
	lea	digits_end(%rip), %rsi
	mov	$10, %ecx
1:	xor	%edx, %edx
	div	%rcx
	add	$'0', %dl
	dec	%rsi
	mov	%dl, (%rsi)
	test	%rax, %rax
	jnz	1b
	jmp	print

text_boot:
	.asciz	"boot "
text_tick:
	.asciz	"tick "
demo_guest_nonce:
	.asciz	"0000000000000000"
digits:
	.skip	20
digits_end:
	.byte	0
	.balign 8
count:
	.quad	0
wake:
	.long	0
	.balign 8
	.skip	6
idt_pointer:
	.word	0x32 * 16 - 1
idt_base:
	.quad	0
	.balign 16
idt:
	.skip	0x32 * 16
demo_guest_end:

	.section .note.GNU-stack, "", @progbits
