"""The catalogue of GPU faults and the generator of rules, tests, routes and runbooks made from it."""
