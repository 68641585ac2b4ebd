/* Starts a program on a Cortex-M: the vector table, the floating-point unit, static data, and files by semihosting. */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t data_in_flash[], data_begin[], data_end[], bss_begin[], bss_end[];
extern void stack_top(void); /* an address, as the vector table has it; nobody calls it */
extern void initialise_monitor_handles(void);
int main(void);
void start(void);
static void stop(void);

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    stack_top, start, stop, stop, stop, stop, stop,
};

void start(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xF00000; /* CPACR: full access to the floating-point unit */
  __asm volatile("dsb\n isb");
  for (uint32_t *to = data_begin, *from = data_in_flash; to < data_end;) *to++ = *from++;
  for (uint32_t *to = bss_begin; to < bss_end;) *to++ = 0;
  initialise_monitor_handles();
  exit(main());
}

/* A fault ends the emulator with a status other than 0. */
static void stop(void) { _Exit(3); }
