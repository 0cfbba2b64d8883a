#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# mutate.pl MUTANTS BOX            checks that each mutant in the file MUTANTS fits the sources in the folder BOX, and
#                                  prints their names
# mutate.pl MUTANTS BOX N FOLDER   writes the sources that mutant number N (1 and up) changes to FOLDER
# mutate.pl MUTANTS BOX N          prints why mutant N goes unnoticed; nothing if the model should find it
#
# The sources are all C files of the box, and headers that only they include (*_internal.h).
#
# A mutant is
#   @ what it does
#   lines of the source
#   =
#   what stands in their place
# with more such pairs behind another line "=" if it takes several. A pattern starts with a line and must be found exactly
# once in all sources. At the end stands, if it is known that the model does not find the mutant:
#   ? unnoticed: why
# Lines before the first mutant that start with # are comments, and empty lines between two mutants count for nothing.
use strict;
use warnings;

my ($file, $box, $number, $folder) = @ARGV;
die "usage: mutate.pl MUTANTS BOX [N [FOLDER]]\n" unless defined $box;

sub slurp {
    my ($name) = @_;
    open my $in, '<', $name or die "$name: $!\n";
    local $/;
    return scalar <$in>;
}

my %sources = map { s|.*/||r => slurp($_) } grep { !/_model\.c$/ } glob("$box/*.c $box/*_internal.h");
my @mutants;
for my $text (split /^@ /m, slurp($file) =~ s/\A(?:#.*\n|\n)*//r) {
    next if $text eq '';
    my $reason = $text =~ s/^\? unnoticed: (.*)\n//m ? $1 : undef;
    $text =~ s/\A(.*)\n// or die "$file: a mutant without a name\n";
    push @mutants, { name => $1, reason => $reason, parts => [ split /^=\n/m, $text, -1 ] };
}

# The sources that a mutant changes, by name.
sub apply {
    my ($mutant) = @_;
    my $in = "$file: \"$mutant->{name}\"";
    my @parts = @{ $mutant->{parts} };
    die "$in: a pattern without a replacement\n" if @parts % 2 != 0;
    my %text = %sources;
    my %changed;
    while (my ($old, $new) = splice @parts, 0, 2) {
        s/\A\n+|\s+\z//g for $old, $new;
        die "$in: an empty pattern\n" if $old eq '';
        my @found = map { my $name = $_; map { $name } $text{$name} =~ /^\Q$old\E/mg } sort keys %text;
        die "$in: found " . @found . " times in $box:\n$old\n" if @found != 1;
        $text{ $found[0] } =~ s/^\Q$old\E/$new/m;
        $changed{ $found[0] } = 1;
    }
    return map { $_ => $text{$_} } keys %changed;
}

if (!defined $number) {
    my $bad = 0;
    for my $mutant (@mutants) {
        if (eval { apply($mutant); 1 }) {
            print "$mutant->{name}\n";
        } else {
            print STDERR $@;
            $bad = 1;
        }
    }
    exit $bad;
}
my $mutant = $mutants[ $number - 1 ] // die "$file: no mutant $number\n";
if (!defined $folder) {
    print $mutant->{reason} // '';
    exit 0;
}
my %changed = apply($mutant);
for my $name (keys %changed) {
    open my $out, '>', "$folder/$name" or die "$folder/$name: $!\n";
    print $out $changed{$name};
    close $out or die "$folder/$name: $!\n";
}
