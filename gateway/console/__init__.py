"""Files of the console; `gateway.admin.console` serves them."""
